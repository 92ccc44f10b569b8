// Charts and events of a run, live.
import { Chart, Tools, metrics, colour } from './charts.js';
import { level } from './feed.js';
import { h, clock, fullTime, figure, integer, save, empty, early } from './lib.js';

export function chartsTab({ feed, view, run }) {
  const charts = new Map(), groups = new Map();
  const tools = new Tools(() => update(true));
  const csv = h('button', { type: 'button', class: 'small', onclick: () => save(`${run}.csv`, 'text/csv', toCSV(feed)) }, 'Download CSV');
  tools.el.append(csv);
  const none = empty('No figures yet: they appear with the first training steps.');
  const boxes = h('div', {});
  const el = h('div', {}, tools.el, none, boxes);
  let timer = null;
  function group(stage) {
    let g = groups.get(stage);
    if (!g) {
      const grid = h('div', { class: 'charts' });
      g = { grid, el: h('section', {}, h('h2', {}, stage), grid) };
      groups.set(stage, g);
      const order = (view()?.stages || []).map((s) => s.name);
      const after = [...groups.keys()].filter((k) => groups.get(k).el.isConnected && order.indexOf(k) > order.indexOf(stage))[0];
      if (after) groups.get(after).el.before(g.el); else boxes.append(g.el);
    }
    return g;
  }
  function update() {
    if (timer) return;
    timer = setTimeout(() => { timer = null; draw(); }, 50);
  }
  function draw() {
    let any = false;
    // All boxes first: the grid gives each its width only when it knows how many there are.
    const todo = [];
    for (const [stage, s] of feed.stages) {
      const keys = metrics([...s.cols.keys(), ...s.evalKeys()]);
      for (const key of keys) {
        const opts = tools.of(key), isEval = key.startsWith('eval_') && s.evals.size > 0 && !s.cols.has(key);
        const [xs, ys] = isEval ? s.evalXY(key, opts.by) : s.xy(key, opts.by);
        if (!ys.length || isEval && ys.length < 2 || ys.length > 30 && ys.every((y) => y === ys[0]) && key !== 'learning_rate') continue;
        any = true;
        const id = `${stage}/${key}`;
        let c = charts.get(id);
        if (!c) { c = new Chart(stage, key); charts.set(id, c); group(stage).grid.append(c.el); }
        todo.push([c, [{ label: isEval ? 'evaluation' : key.replaceAll('_', ' '), xs, ys, color: colour(key === 'loss' || key === 'eval_loss' ? 0 : 6) }], { ...opts, say: key === 'loss' ? lastEval(s) : '', sync: `${stage}/${opts.by}`, marks: marks(s, opts.by, feed, stage, view()) }]);
      }
    }
    none.hidden = any;
    csv.disabled = !any;
    for (const [c, lines, opts] of todo) c.set(lines, opts);
  }
  const resize = new ResizeObserver(() => { for (const c of charts.values()) c.resize(); });
  resize.observe(boxes);
  feed.addEventListener('data', update);
  draw();
  return { el, update, close() { feed.removeEventListener('data', update); resize.disconnect(); clearTimeout(timer); for (const c of charts.values()) c.destroy(); } };
}

// lastEval tells of an evaluation that is alone and has no chart.
function lastEval(s) {
  const [xs, ys] = s.evalXY('eval_loss', 'step');
  return ys.length === 1 ? `evaluation loss ${figure(ys[0])} at step ${integer(xs[0])}` : '';
}

// marks are the places where gangs ended, by the x axis that is shown.
function marks(s, by, feed, stage, v) {
  if (by === 'time') return early(v || {}).map((e) => ({ x: Date.parse(e.at) / 1000, kind: 'bad' }));
  if (by !== 'step') return [];
  const out = [];
  for (const [g, from] of s.begins) if ([...s.begins.keys()].some((x) => x < g)) out.push({ x: from, kind: 'bad' });
  for (const e of feed.log) if (e.type === 'checkpoint.committed' && e.stage === stage) out.push({ x: e.step, kind: 'commit' });
  return out.length > 400 ? out.filter((m) => m.kind === 'bad') : out;
}

function toCSV(feed) {
  const keys = metrics([...feed.stages.values()].flatMap((s) => [...s.cols.keys()]));
  const lines = [['stage', 'step', 'time', 'generation', ...keys].join(',')];
  for (const [stage, s] of feed.stages) {
    s.sort();
    s.steps.forEach((step, i) => lines.push([stage, step, new Date(s.times[i] * 1000).toISOString(), s.gens[i], ...keys.map((k) => s.cols.get(k)?.[i] ?? '')].join(',')));
  }
  return `${lines.join('\n')}\n`;
}

// ---- events
const shown = 1000;
const calm = { 'gang.fenced': 'gang.released' }; // the usual end of a seat, not a fault

export function logsTab({ feed, run }) {
  const search = h('input', { type: 'search', placeholder: 'Search events ( / )', 'aria-label': 'Search events', oninput: () => redraw() });
  const lowest = h('select', { 'aria-label': 'Level', onchange: () => redraw() }, [['0', 'all events'], ['1', 'warnings and errors'], ['2', 'errors']].map(([v, t]) => h('option', { value: v }, t)));
  const stage = h('select', { 'aria-label': 'Stage', onchange: () => redraw() }, h('option', { value: '' }, 'every stage'));
  const stick = h('input', { type: 'checkbox', checked: true, id: 'stick' });
  const jump = h('button', { type: 'button', class: 'small', onclick: () => toProblem() }, 'Next problem');
  const get = h('button', { type: 'button', class: 'small', onclick: () => save(`${run}-events.jsonl`, 'application/x-ndjson', feed.log.map((e) => JSON.stringify(e)).join('\n')) }, 'Download');
  const info = h('p', { class: 'dim', role: 'status' }), list = h('ol', { class: 'log', tabindex: '0', 'aria-label': 'Events' }), none = empty('No event is selected.');
  const el = h('div', {}, h('div', { class: 'logtools' }, search, lowest, stage, h('label', {}, stick, ' follow'), jump, get), info, list, none);
  let drawn = 0, first = null, count = 0;
  const matches = (e) => {
    if (level(e) < Number(lowest.value) || stage.value && e.stage !== stage.value) return false;
    const text = search.value.trim().toLowerCase();
    return !text || words(e).toLowerCase().includes(text);
  };
  const words = (e) => [e.type, e.stage, e.step && `step ${e.step}`, e.worker, e.message, e.error?.message, e.error?.hint, values(e)].filter(Boolean).join(' ');
  const values = (e) => Object.entries(e.values || {}).filter(([k]) => k !== 'step').map(([k, v]) => `${k}=${figure(v)}`).join(' ');
  const item = (e) => h('li', { class: `l${level(e)}` }, h('time', { datetime: e.at, title: fullTime(e.at) }, clock(e.at)), h('span', { class: 'type' }, level(e) ? h('b', {}, level(e) === 2 ? 'error ' : 'warning ') : '', calm[e.type] || e.type),
    h('span', { class: 'what' }, [e.stage, e.step ? `step ${integer(e.step)}` : '', e.generation && /gang|preempt/.test(e.type) ? `generation ${e.generation}` : '', e.worker].filter(Boolean).join(' · '), ' ', h('span', { class: 'message' }, [e.message, e.error && [e.error.place, e.error.message, e.error.hint].filter(Boolean).join(': ')].filter(Boolean).join(' – ')), ' ', h('span', { class: 'dim' }, values(e))));
  function redraw() { drawn = 0; first = null; count = 0; list.replaceChildren(); update(); }
  function update() {
    for (const s of new Set(feed.log.map((e) => e.stage).filter(Boolean))) if (![...stage.options].some((o) => o.value === s)) stage.append(h('option', { value: s }, s));
    if (feed.log[0] !== first || drawn > feed.log.length) { // the history came late, or the oldest were dropped
      first = feed.log[0]; drawn = 0; count = 0; list.replaceChildren();
    }
    const bottom = list.scrollHeight - list.scrollTop - list.clientHeight < 40;
    const fresh = feed.log.slice(drawn).filter(matches);
    count += fresh.length;
    drawn = feed.log.length;
    list.append(...fresh.slice(-shown).map(item));
    while (list.childElementCount > shown) list.firstElementChild.remove();
    none.hidden = count > 0;
    list.hidden = count === 0;
    none.textContent = feed.log.length ? 'No event is selected.' : 'No events yet.';
    info.textContent = `${integer(count)} of ${integer(feed.log.length + feed.dropped)} events${count > shown ? `, the newest ${integer(shown)} shown` : ''}${feed.dropped ? `; the oldest ${integer(feed.dropped)} are no longer held here: tunefleet logs prints them` : ''}`;
    if (fresh.length && stick.checked && bottom) list.scrollTop = list.scrollHeight;
  }
  function toProblem() {
    const all = [...list.querySelectorAll('.l1, .l2')], at = all.findIndex((x) => x.classList.contains('here')), next = all[(at + 1) % all.length];
    all[at]?.classList.remove('here');
    if (!next) { info.textContent = 'There is no warning and no error among these events.'; return; }
    next.classList.add('here');
    stick.checked = false;
    next.scrollIntoView({ block: 'center' });
  }
  feed.addEventListener('data', update);
  queueMicrotask(() => { redraw(); list.scrollTop = list.scrollHeight; });
  return { el, update, close: () => feed.removeEventListener('data', update) };
}
