from mi_lens.common.provenance import differences


def test_differences_are_named_with_both_values():
    a = {"model": "m", "versions": {"torch": "1", "numpy": "2"}, "stop": [1], "plain": {}}
    b = {"versions": {"numpy": "2", "torch": "2"}, "dtype": "float32", "stop": [1], "plain": 3}
    assert differences(a, b) == {
        "dtype": (None, "float32"),
        "model": ("m", None),
        "plain": ({}, 3),
        "versions.torch": ("1", "2"),
    }
    assert list(differences(a, b)) == sorted(differences(a, b))
    assert differences(a, dict(a)) == {}
