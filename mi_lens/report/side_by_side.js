// Two conditions of one problem, from their first different token.
(() => {
  if (!page.pairs.length) return;
  const several = new Set(page.index.map(({ run }) => run)).size > 1;
  const entry = (place) => page.index[place];
  const title = (place) => [entry(place).condition ?? "imported", ...(several ? [entry(place).run] : [])].join(" · ");
  const group = () => page.pairs[$("pair").value];
  const visible = (text) => text.replace(/\n+/g, (breaks) => "↵".repeat(breaks.length) + breaks);
  const quoted = (token) => (token === undefined ? "nothing more" : `“${token.replaceAll("\n", "↵")}”`);
  const differs = ({ differ }) => differ[0].some((step) => step !== null);

  for (const [label, wanted] of [["different tokens", true], ["the same tokens under every condition", false]]) {
    const options = make("optgroup");
    page.pairs.forEach((pair, i) => {
      if (differs(pair) !== wanted) return;
      const option = make("option", "", entry(pair.traces[0]).question);
      option.value = i;
      options.append(option);
    });
    options.label = `${label} (${options.children.length})`;
    if (options.children.length) $("pair").append(options);
  }

  function chooseProblem() {
    const { traces, differ } = group();
    for (const id of ["left", "right"]) {
      $(id).replaceChildren(...traces.map((place, i) => {
        const option = make("option", "", title(place));
        option.value = i;
        return option;
      }));
    }
    const other = differ[0].findIndex((step) => step !== null);
    $("left").value = 0;
    $("right").value = other < 0 ? 1 : other;
    compare();
  }

  function compare() {
    const chosen = [$("left").value, $("right").value].map(Number);
    const places = chosen.map((i) => group().traces[i]);
    const tokens = places.map((place) => parse(`trace-${place}`).tokens);
    const names = places.map(title);
    const step = group().differ[chosen[0]][chosen[1]];
    const shared = step ?? tokens[0].length;
    const count = `${shared} ${shared === 1 ? "token" : "tokens"}`;
    $("parting").textContent = chosen[0] === chosen[1] ? "Left and right are the same trace."
      : step === null ? `${names[0]} and ${names[1]} wrote the same ${count}.`
      : `At step ${step}, ${names[0]} writes ${quoted(tokens[0][step])} and ${names[1]} writes ${quoted(tokens[1][step])}.`;
    $("shared").hidden = shared === 0;
    $("shared").open = false;
    $("shared").querySelector(".what").textContent = `the ${count} that both ${step === null ? "wrote" : "begin with"}`;
    $("shared").querySelector(".prose").textContent = visible(tokens[0].slice(0, shared).join(""));
    $("sides").replaceChildren(...(step === null ? [] : places.map((place, i) => side(place, tokens[i], step))));
  }

  function side(place, tokens, step) {
    const { correct, steps, name } = entry(place);
    const article = make("article");
    const facts = [...(correct === null ? [] : [correct ? "right" : "wrong"]), `${steps} tokens`];
    const text = make("div", "prose");
    text.tabIndex = 0;
    text.setAttribute("role", "group");
    text.setAttribute("aria-label", `Text of ${title(place)} from step ${step}`);
    if (step < tokens.length) {
      text.append(make("mark", "", visible(tokens[step])), visible(tokens.slice(step + 1).join("")));
    } else {
      text.append(make("mark", "", "The trace ends here."));
    }
    const link = make("a", "", `Read this trace at step ${Math.min(step, steps - 1)}`);
    link.href = address(name, Math.min(step, steps - 1));
    article.append(make("h3", "", title(place)), make("p", "note", facts.join(", ")), text, link);
    return article;
  }

  $("pair").addEventListener("change", chooseProblem);
  for (const id of ["left", "right"]) $(id).addEventListener("change", compare);
  chooseProblem();
})();
