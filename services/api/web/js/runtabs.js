// The tabs of a run that are read once, or now and then: checkpoints, evaluation, files, configuration.
import { getJSON, call } from './api.js';
import { h, when, integer, figure, bytes, percent, keyed, toast, save, empty, code, table } from './lib.js';
import { title } from './charts.js';

// reading makes a tab that loads something, says so, and says what went wrong.
function reading(load) {
  const content = h('div', {}), state = h('p', { class: 'dim', role: 'status' }, 'Loading…');
  const el = h('div', {}, state, content);
  let dead = false, busy = false;
  const update = async () => {
    if (busy) return;
    busy = true;
    try { await load(content); if (!dead) state.hidden = true; } catch (e) { if (!dead) { state.hidden = false; state.className = 'error'; state.textContent = e.message; } }
    busy = false;
  };
  return { el, update, close: () => { dead = true; } };
}

const roles = { head: 'where the run goes on', previous: 'the one before', final: 'the end of its stage', pinned: 'pinned', '': '' };

export function checkpointsTab({ path, run, tenant, view }) {
  const body = h('tbody');
  let last = '', verified = null, working = false;
  const verify = h('button', { type: 'button', onclick: async () => {
    working = true; verify.disabled = true; verify.textContent = 'Reading every part…';
    try {
      const list = (await (await call(`${path}/checkpoints/verify`, { method: 'POST' })).json()).checkpoints || [];
      verified = new Map(list.map((c) => [c.name, c.verified || '']));
      const bad = list.filter((c) => c.verified && c.verified !== 'ok');
      toast(bad.length ? `${bad.length} of ${list.length} checkpoints are damaged` : 'Every part that is kept is as its manifest says', bad.length ? 'error' : '');
    } catch (e) { toast(`Cannot verify: ${e.message}`, 'error'); }
    working = false; verify.disabled = false; verify.textContent = 'Verify'; last = ''; tab.update();
  } }, 'Verify');
  const tab = reading(async (box) => {
    if (working) return;
    const at = JSON.stringify([view()?.manifest, view()?.state]);
    if (at === last) return;
    const list = ((await getJSON(`${path}/checkpoints`)).checkpoints || []).sort((a, b) => (a.created < b.created ? 1 : -1));
    last = at;
    if (!list.length) { box.replaceChildren(empty('No checkpoint yet: the first comes with the first commit of a train stage.')); return; }
    if (!body.isConnected) box.replaceChildren(h('div', { class: 'pagehead' }, h('p', { class: 'dim' }, 'Newest first. Parts that nothing needs are deleted; what is pinned stays.'), verify),
      table(['Stage', ['Step', 'num'], ['Generation', 'num wide'], 'Made', ['Size', 'num'], ['Parts', 'num wide'], 'Kept as', 'Verified', [h('span', { class: 'sr' }, 'Pin'), '']], body, { label: 'Checkpoints' }),
      h('h2', {}, 'Go on from here'), h('pre', { tabindex: '0' }, `tunefleet fork ${run} --tenant ${tenant}\ntunefleet export ${run} --tenant ${tenant} --to out/`));
    keyed(body, list.map((c) => ({ ...c, check: verified?.get(c.name) ?? c.verified ?? '' })), (c) => c.name, (c) => h('tr', {}, h('td', {}, c.stage), h('td', { class: 'num' }, integer(c.step)), h('td', { class: 'num wide' }, c.generation), h('td', {}, when(c.created)),
      h('td', { class: 'num' }, c.pruned ? '' : bytes(c.bytes)), h('td', { class: 'num wide' }, c.parts), h('td', {}, c.pruned ? h('span', { class: 'dim' }, 'deleted') : h('span', { title: roles[c.role] || '' }, c.role || '')),
      h('td', { class: c.check === 'ok' ? 'ok' : c.check ? 'error' : 'dim' }, c.check),
      h('td', {}, c.pruned ? '' : h('button', { type: 'button', class: 'small', 'data-focus': 'pin', 'aria-label': `${c.role === 'pinned' ? 'Unpin' : 'Pin'} the checkpoint of ${c.stage} at step ${c.step}`, onclick: () => pin(c) }, c.role === 'pinned' ? 'Unpin' : 'Pin'))));
  });
  async function pin(c) {
    try {
      await call(`${path}/checkpoints/${encodeURIComponent(c.name)}/pin`, { method: c.role === 'pinned' ? 'DELETE' : 'PUT' });
      toast(c.role === 'pinned' ? 'It is kept no longer than needed' : 'It is kept for good');
    } catch (e) { toast(`Cannot pin: ${e.message}`, 'error'); }
    last = ''; tab.update();
  }
  return tab;
}

// ---- evaluation
// scores lists the numbers of a model's report, those that people look at first.
const order = ['accuracy', 'macro_f1', 'f1', 'mcc', 'exact_match', 'perplexity', 'loss', 'bleu4', 'sacrebleu', 'chrf', 'rouge1', 'rouge2', 'rougeL'];
const lower = /perplexity|loss|seconds|error/, shares = /^(accuracy|macro_f1|exact_match|f1|precision|recall|majority_share)$/;
export const score = (k, v) => (shares.test(k) ? percent(v) : figure(v));
export const scoresOf = (m) => Object.keys(m).filter((k) => typeof m[k] === 'number' && !/^(generated|rows|train_rows)$/.test(k)).sort((a, b) => (order.indexOf(a) + 1 || 50) - (order.indexOf(b) + 1 || 50));

export function evaluationTab({ path, view }) {
  let last = '';
  return reading(async (box) => {
    const stages = (view()?.stages || []).filter((s) => s.kind === 'eval'), at = JSON.stringify(stages);
    if (!view() || at === last) return;
    const parts = [];
    for (const s of stages) {
      parts.push(h('h2', {}, s.name));
      if (s.state !== 'succeeded') { parts.push(empty(s.state === 'failed' ? 'This evaluation failed.' : s.state === 'running' ? 'At work: the report comes when all slices are scored.' : 'Not begun.')); continue; }
      const r = (await getJSON(`${path}/stages/${encodeURIComponent(s.name)}`)).result;
      parts.push(r?.values?.report?.models ? report(r.values.report) : h('pre', { tabindex: '0' }, JSON.stringify(r?.values || {}, null, 2)));
    }
    if (!stages.length) parts.push(empty('This run has no eval stage. Evaluations within training are among the charts.'));
    last = at;
    box.replaceChildren(...parts);
  });
}

function report(r) {
  const models = r.models, keys = [...new Set(models.flatMap(scoresOf))].sort((a, b) => (order.indexOf(a) + 1 || 50) - (order.indexOf(b) + 1 || 50));
  const best = Object.fromEntries(keys.map((k) => [k, (lower.test(k) ? Math.min : Math.max)(...models.map((m) => m[k]).filter(Number.isFinite))]));
  const rows = models.map((m) => h('tr', {}, h('th', { scope: 'row' }, m.name, h('small', {}, m.from || '')), keys.map((k) => h('td', { class: `num ${models.length > 1 && m[k] === best[k] && k !== 'tokens_per_second' ? 'best' : ''}` }, m[k] === undefined ? '' : score(k, m[k])))));
  const base = r.bag_of_words;
  if (base) rows.push(h('tr', { class: 'dim' }, h('th', { scope: 'row' }, 'bag of words', h('small', {}, 'logistic regression')), keys.map((k) => h('td', { class: 'num' }, base[k] === undefined ? '' : score(k, base[k])))));
  return h('div', {}, h('p', { class: 'dim' }, [`${integer(r.rows)} rows of ${r.data || 'the test split'}`, r.majority ? `always saying “${r.majority}” would be right in ${percent(r.majority_share)}` : ''].filter(Boolean).join(' · ')),
    table(['Model', ...keys.map((k) => [title(k), 'num'])], h('tbody', {}, rows), { label: 'Scores of the models' }),
    classes(models), models.map(confusion), samples(models));
}

function classes(models) {
  const labels = [...new Set(models.flatMap((m) => (m.per_class || []).map((c) => c.label)))];
  if (!labels.length) return '';
  const of = (m, l) => (m.per_class || []).find((c) => c.label === l) || {};
  return h('details', {}, h('summary', {}, `By class (${labels.length})`), table(['Class', ['Rows', 'num'], ...models.map((m) => [`${m.name}: F1`, 'num']), ...models.map((m) => [`${m.name}: precision / recall`, 'num wide'])],
    h('tbody', {}, labels.map((l) => h('tr', {}, h('th', { scope: 'row' }, l), h('td', { class: 'num' }, integer(of(models[0], l).support)), models.map((m) => h('td', { class: 'num' }, percent(of(m, l).f1 || 0))),
      models.map((m) => h('td', { class: 'num wide' }, `${percent(of(m, l).precision || 0, 0)} / ${percent(of(m, l).recall || 0, 0)}`))))), { label: 'Scores by class' }));
}

function confusion(m) {
  const labels = (m.per_class || []).map((c) => c.label);
  if (!m.confusion?.length || m.confusion.length > 60) return '';
  const cell = (row, n) => { const all = row.reduce((a, b) => a + b, 0), share = all ? n / all : 0; return h('td', { class: `num heat h${Math.min(9, Math.ceil(share * 9))}`, title: percent(share, 0) }, n || ''); };
  return h('details', {}, h('summary', {}, `Confusion of ${m.name}`), h('p', { class: 'dim' }, 'Rows are the true classes, columns what the model said.'),
    table(['True class', ...labels.map((l) => [l, 'vert'])], h('tbody', {}, m.confusion.map((row, i) => h('tr', {}, h('th', { scope: 'row' }, labels[i] ?? i), row.map((n) => cell(row, n))))), { label: `Confusion matrix of ${m.name}` }));
}

function samples(models) {
  const all = [...new Set(models.flatMap((m) => (m.samples || []).map((s) => s.index)))].sort((a, b) => a - b);
  if (!all.length) return '';
  const of = (m, i) => (m.samples || []).find((s) => s.index === i);
  return h('div', {}, h('h3', {}, 'What the models wrote'), table([['Row', 'num'], 'Reference', ...models.map((m) => m.name)],
    h('tbody', {}, all.map((i) => { const ref = models.map((m) => of(m, i)).find(Boolean);
      return h('tr', { class: 'sample' }, h('td', { class: 'num' }, i), h('td', {}, ref.label ? h('strong', {}, `${ref.label} `) : '', ref.reference || ''),
        models.map((m) => { const s = of(m, i); return h('td', {}, s?.predicted ? h('strong', { class: s.predicted === ref.label ? 'ok' : 'error' }, `${s.predicted === ref.label ? '✓' : '✕'} ${s.predicted} `) : '', s?.text || ''); })); })), { label: 'Samples' }));
}

// ---- files
export function filesTab({ path, view, run, tenant }) {
  let last = null;
  return reading(async (box) => {
    const at = JSON.stringify((view()?.stages || []).map((s) => s.state));
    if (at === last) return;
    const outs = (await getJSON(`${path}/outputs`)).outputs || [];
    last = at;
    if (!outs.length) { box.replaceChildren(empty('No files yet: eval and export stages make them.')); return; }
    const folders = new Map();
    for (const o of outs) { const dir = o.name.includes('/') ? o.name.slice(0, o.name.lastIndexOf('/')) : ''; folders.set(dir, [...(folders.get(dir) || []), o]); }
    const total = outs.reduce((a, o) => a + o.bytes, 0);
    box.replaceChildren(h('p', { class: 'dim' }, `${integer(outs.length)} files, ${bytes(total)}. All at once: `, code(`tunefleet outputs ${run} --tenant ${tenant} --to out/`)),
      ...[...folders].map(([dir, list]) => h('div', {}, h('h2', {}, dir || 'files'), table(['File', ['Size', 'num']], h('tbody', {}, list.map((o) => h('tr', {},
        h('td', {}, h('a', { href: `${path}/outputs/${o.name.split('/').map(encodeURIComponent).join('/')}`, download: o.name.split('/').pop() }, o.name.slice(dir ? dir.length + 1 : 0))), h('td', { class: 'num' }, bytes(o.bytes))))), { label: `Files of ${dir}` }))));
  });
}

// ---- configuration
export function configTab({ view, run, tenant, go }) {
  let done = false;
  const tab = reading(async (box) => {
    const spec = view()?.spec;
    if (!spec || done) return;
    done = true;
    const text = JSON.stringify(spec, null, 2);
    box.replaceChildren(h('div', { class: 'pagehead' }, h('p', { class: 'dim' }, 'The specification as it was resolved when the run was accepted; it never changes.'),
      h('div', { class: 'buttons' }, h('button', { type: 'button', onclick: () => navigator.clipboard.writeText(text).then(() => toast('Copied'), () => toast('The browser does not allow to copy', 'error')) }, 'Copy'),
        h('button', { type: 'button', onclick: () => save(`${run}.json`, 'application/json', text) }, 'Download'), h('button', { type: 'button', onclick: () => go(`#/compare?runs=${tenant}/${run}`) }, 'Compare…'))),
    h('pre', { class: 'spec', tabindex: '0', 'aria-label': 'Specification of the run' }, text));
  });
  return tab;
}
