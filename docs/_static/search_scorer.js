/* The order of the search results. Answers and how-to guides come before explanations and the reference.
   Sphinx takes this object instead of its own, so the numbers below are those of its searchtools.js. */
var Scorer = {
  score: (result) => {
    const [doc, title, anchor, descr, score, filename, kind] = result;
    let plus = 0;
    if (doc === "faq") plus = 6;
    else if (doc.startsWith("how-to/")) plus = 5;
    else if (/^(tutorial|worker|store|testing|agents)$/.test(doc)) plus = 3;
    else if (/^(architecture|torture|project\/)/.test(doc)) plus = -4;
    else if (doc.startsWith("reference/")) plus = -2;
    if (kind === "title") plus += 10;
    return score + plus;
  },
  objNameMatch: 11,
  objPartialMatch: 6,
  objPrio: { 0: 15, 1: 5, 2: -5 },
  objPrioDefault: 0,
  title: 15,
  partialTitle: 7,
  term: 5,
  partialTerm: 2,
};
