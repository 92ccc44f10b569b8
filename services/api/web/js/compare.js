// Several runs side by side: charts over each other, what differs in their configurations, and how they ended.
import { getJSON } from './api.js';
import { Feed } from './feed.js';
import { Chart, Tools, metrics, colour, title } from './charts.js';
import { h, badge, integer, figure, span, percent, runPath, runLink, table, empty, early, brief } from './lib.js';
import { score, scoresOf } from './runtabs.js';

const most = 8;
const validID = /^[a-z0-9][a-z0-9_-]{0,62}\/[a-z0-9][a-z0-9_-]{0,62}$/;

export function comparePage(query, go) {
  const ids = [...new Set((new URLSearchParams(query).get('runs') || '').split(',').filter((x) => validID.test(x)))].slice(0, most);
  const runs = ids.map((id, i) => { const [tenant, run] = id.split('/'); return { id, tenant, run, i, feed: new Feed(tenant, run), view: null, evals: [], error: '' }; });
  const charts = new Map();
  let dead = false, timer = null, drawing = null, found = [];
  const tools = new Tools(() => later());
  const boxes = h('div', {}), sums = h('div', {}), scores = h('div', {}), diff = h('div', {}), none = empty('No figures yet.');
  const pick = h('input', { type: 'search', placeholder: 'Name or id of a run to add', 'aria-label': 'Add a run', list: 'runs-to-add', autocomplete: 'off' }), options = h('datalist', { id: 'runs-to-add' });
  const said = h('span', { class: 'error', role: 'alert' });
  const form = h('form', { class: 'filters', onsubmit: (e) => { e.preventDefault(); add(); } }, pick, options, h('button', { type: 'submit' }, 'Add'), said);
  const to = (list) => go(`#/compare?runs=${list.join(',')}`);
  let typing = null;
  pick.addEventListener('input', () => { clearTimeout(typing); typing = setTimeout(suggest, 200); });
  pick.addEventListener('focus', suggest, { once: true });
  async function suggest() {
    try {
      const list = await getJSON(`/v1/runs?limit=20&name=${encodeURIComponent(pick.value.trim().split(' ')[0])}`);
      found = list.runs.filter((r) => !ids.includes(`${r.tenant}/${r.run}`));
      options.replaceChildren(...found.map((r) => h('option', { value: `${r.tenant}/${r.run}` }, `${r.name || 'without a name'} · ${r.state}`)));
    } catch { /* there is nothing to suggest */ }
  }
  async function add() {
    const text = pick.value.trim();
    if (ids.length >= most) { said.textContent = `At most ${most} runs.`; return; }
    if (!found.some((r) => `${r.tenant}/${r.run}` === text)) await suggest();
    const r = found.find((x) => `${x.tenant}/${x.run}` === text || x.run === text) || found[0];
    if (!text || !r) { said.textContent = 'No such run.'; return; }
    to([...ids, `${r.tenant}/${r.run}`]);
  }
  const legend = h('ul', { class: 'legend' });
  const el = h('section', {}, h('div', { class: 'pagehead' }, h('h1', {}, 'Compare runs'), form), legend,
    runs.length ? h('div', {}, sums, diff, h('h2', {}, 'Charts'), tools.el, none, boxes, scores) : empty('Add runs here, or select them in the list of runs and choose Compare.'));

  const name = (r) => { const n = brief(r.view?.name || r.run.slice(0, 10)); return runs.filter((x) => (x.view?.name || '') === (r.view?.name || '')).length > 1 ? `${n} ${r.run.slice(-4)}` : n; };
  function drawLegend() {
    legend.replaceChildren(...runs.map((r) => h('li', {}, h('i', { class: `dot c${r.i}` }), h('a', { href: runLink(r.tenant, r.run), title: r.id }, name(r)), r.view ? badge(r.view.state) : '', r.error ? h('span', { class: 'error' }, r.error) : '',
      h('button', { type: 'button', class: 'small', 'aria-label': `Take ${name(r)} out`, onclick: () => to(ids.filter((x) => x !== r.id)) }, '×'))));
  }
  function later() { if (!drawing) drawing = setTimeout(() => { drawing = null; if (!dead) draw(); }, 100); }
  function draw() {
    // Stages of one name are compared with each other.
    const stages = [...new Set(runs.flatMap((r) => [...r.feed.stages.keys()]))], todo = [];
    for (const stage of stages) {
      const having = runs.filter((r) => r.feed.stages.has(stage));
      for (const key of metrics(having.flatMap((r) => [...r.feed.stages.get(stage).cols.keys(), ...r.feed.stages.get(stage).evalKeys()]))) {
        const opts = tools.of(key);
        const lines = having.map((r) => { const s = r.feed.stages.get(stage), [xs, ys] = s.cols.has(key) ? s.xy(key, opts.by) : s.evalXY(key, opts.by); return { label: name(r), xs: opts.by === 'time' ? xs.map((x) => x - xs[0]) : xs, ys, color: colour(r.i) }; }).filter((l) => l.ys.length > 1);
        if (!lines.length) continue;
        const id = `${stage}/${key}`;
        let c = charts.get(id);
        if (!c) {
          c = new Chart(stage, key);
          charts.set(id, c);
          let g = boxes.querySelector(`[data-stage="${CSS.escape(stage)}"]`);
          if (!g) { g = h('section', { 'data-stage': stage }, h('h3', {}, stage), h('div', { class: 'charts' })); boxes.append(g); }
          g.lastElementChild.append(c.el);
        }
        todo.push([c, lines, { ...opts, by: opts.by === 'time' ? 'elapsed' : opts.by, sync: `compare/${opts.by}` }]);
      }
    }
    none.hidden = todo.length > 0;
    for (const [c, lines, opts] of todo) c.set(lines, opts);
    drawSums();
  }
  function drawSums() {
    const rows = runs.filter((r) => r.view).map((r) => {
      const out = { State: badge(r.view.state), 'Wall time': r.view.time?.wall ? span(r.view.time.wall) : '', Goodput: r.view.time?.goodput ? percent(r.view.time.goodput) : '', 'Lost gangs': integer(early(r.view).length) };
      for (const [stage, s] of r.feed.stages) {
        const [, ys] = s.xy('loss', 'step'), [, ev] = s.evalXY('eval_loss', 'step');
        if (ys.length) { out[`${stage}: steps`] = integer(s.steps[s.steps.length - 1]); out[`${stage}: last loss`] = figure(ys.slice(-10).reduce((a, b) => a + b, 0) / Math.min(10, ys.length)); }
        if (ev.length) out[`${stage}: lowest evaluation loss`] = figure(Math.min(...ev));
      }
      return [r, out];
    });
    sums.replaceChildren(rows.length ? side(rows.map(([r, o]) => [r, new Map(Object.entries(o))]), 'How the runs compare') : '');
    const scored = runs.filter((r) => r.evals.length).map((r) => [r, new Map(r.evals)]);
    scores.replaceChildren(...(scored.length ? [h('h2', {}, 'Scores of evaluations'), side(scored, 'Scores of evaluations')] : []));
  }
  const side = (rows, label) => table(['Figure', ...rows.map(([r]) => [name(r), 'num'])], h('tbody', {}, [...new Set(rows.flatMap(([, o]) => [...o.keys()]))].map((k) => h('tr', {}, h('th', { scope: 'row' }, k), rows.map(([, o]) => h('td', { class: 'num' }, o.get(k) ?? ''))))), { label, class: 'fit' });
  function drawDiff() {
    const have = runs.filter((r) => r.view?.spec);
    if (have.length < 2) { diff.replaceChildren(); return; }
    const flat = have.map((r) => flatten(r.view.spec)), keys = [...new Set(flat.flatMap((f) => [...f.keys()]))].filter((k) => !/^(id|key|traceparent)$/.test(k) && new Set(flat.map((f) => f.get(k) ?? '')).size > 1);
    diff.replaceChildren(h('h2', {}, 'What differs in their configurations'), keys.length ? table(['Setting', ...have.map(name)], h('tbody', {}, keys.map((k) => h('tr', {}, h('th', { scope: 'row' }, k), flat.map((f) => h('td', { class: 'words' }, f.get(k) ?? '–'))))), { label: 'Differences of configuration', class: 'fit' })
      : empty('Nothing: the runs have the same configuration.'));
  }
  async function refresh() {
    clearTimeout(timer);
    let lost = null;
    await Promise.all(runs.map(async (r) => {
      try {
        r.view = await getJSON(runPath(r.tenant, r.run));
        r.error = '';
        if (!r.evals.length && r.view.state === 'succeeded') r.evals = await evalsOf(r);
      } catch (e) { r.error = e.message; if (!e.status) lost = e; }
    }));
    if (dead) return;
    page.live(!lost, lost);
    drawLegend(); drawDiff(); later();
    timer = setTimeout(refresh, runs.every((r) => r.feed.state === 'over') ? 30000 : 4000);
  }
  for (const r of runs) r.feed.addEventListener('data', later);
  const resize = new ResizeObserver(() => { for (const c of charts.values()) c.resize(); });
  resize.observe(boxes);
  const page = { el, title: 'Compare', live: () => {}, start: () => { drawLegend(); return refresh(); }, redraw: () => { drawLegend(); later(); }, keys: (k) => (k === '/' ? (pick.focus(), true) : false),
    close() { dead = true; clearTimeout(timer); clearTimeout(drawing); clearTimeout(typing); resize.disconnect(); for (const r of runs) r.feed.close(); for (const c of charts.values()) c.destroy(); } };
  return page;
}

async function evalsOf(r) {
  const out = [];
  for (const s of r.view.stages || []) {
    if (s.kind !== 'eval' || s.state !== 'succeeded') continue;
    const rep = (await getJSON(`${runPath(r.tenant, r.run)}/stages/${encodeURIComponent(s.name)}`)).result?.values?.report;
    for (const m of rep?.models || []) for (const k of scoresOf(m)) if (k !== 'tokens_per_second') out.push([`${s.name}, ${m.name}: ${title(k)}`, score(k, m[k])]);
  }
  return out;
}

// flatten makes "stages.base.train.optim.lr" of nested settings; lists of named things are told by name.
function flatten(v, at = '', out = new Map()) {
  if (Array.isArray(v) && v.every((x) => x === null || typeof x !== 'object')) out.set(at, v.join(', '));
  else if (v && typeof v === 'object') for (const [k, x] of Object.entries(v)) flatten(x, `${at}${at && '.'}${Array.isArray(v) ? x?.name || k : k}`, out);
  else out.set(at, String(v));
  return out;
}
