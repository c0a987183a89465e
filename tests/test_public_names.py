import mi_lens


def test_every_public_name_loads():
    assert "hsic_mi" in mi_lens.__all__
    for name in mi_lens.__all__:
        value = getattr(mi_lens, name)
        # A function, and not the module of the same name that a later import may put there.
        assert callable(value), name
