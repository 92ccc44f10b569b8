// The page of runs: newest first, filtered and paged by the server, live.
import { getJSON, call } from './api.js';
import { $, h, badge, when, fullTime, integer, figure, span, percent, stamp, runLink, runPath, keyed, toast, confirmed, empty, code, table, early } from './lib.js';

const states = ['queued', 'running', 'paused', 'succeeded', 'failed', 'cancelled', 'skipped'];
const pageSize = 50;
const sinces = [['', 'any time'], ['3600', 'last hour'], ['86400', 'last day'], ['604800', 'last week'], ['2592000', 'last 30 days']];

// progressOf is the share of the stage at work.
function progressOf(r) {
  const p = r.progress || {}, total = Number(p.total || p.steps), done = Number(p.step || p.rows || p.done);
  return r.state === 'running' && total > 0 && done >= 0 ? { done: Math.min(done, total), total, stage: p.stage } : null;
}
const stepOf = (r) => (r.stage ? r.step : [...(r.stages || [])].reverse().find((s) => s.manifest)?.manifest.step) || '';
const ended = (r) => ['succeeded', 'failed', 'cancelled', 'skipped'].includes(r.state);
const lasted = (r) => { const from = stamp(r.created), to = ended(r) ? stamp(r.updated) : Date.now(); return from && to >= from ? span((to - from) / 1000) : ''; };

export function listPage(query, go) {
  const q = new URLSearchParams(query), chosen = new Map();
  let dead = false, timer = null, asked = 0, back = JSON.parse(sessionStorage.getItem('tunefleet.back') || '[]');
  const wanted = () => ({ q: q.get('q') || '', state: q.get('state') || '', pool: q.get('pool') || '', tenant: q.get('tenant') || '', since: q.get('since') || '', after: q.get('after') || '', page: Number(q.get('page') || 1) });
  const navigate = (changes, keepPage) => {
    for (const [k, v] of Object.entries(changes)) { if (v) q.set(k, v); else q.delete(k); }
    if (!keepPage) { q.delete('after'); q.delete('page'); back = []; }
    sessionStorage.setItem('tunefleet.back', JSON.stringify(back));
    history.replaceState(null, '', `#/runs${String(q) ? `?${q}` : ''}`);
    refresh();
  };
  let typing = null;
  const search = h('input', { id: 'search', type: 'search', placeholder: 'Name or id ( / )', 'aria-label': 'Search runs by name or id', value: wanted().q,
    oninput: () => { clearTimeout(typing); typing = setTimeout(() => navigate({ q: search.value.trim() }), 250); } });
  const pool = h('select', { 'aria-label': 'Pool', onchange: () => navigate({ pool: pool.value }) }, h('option', { value: '' }, 'every pool'));
  const since = h('select', { 'aria-label': 'Submitted since', onchange: () => navigate({ since: since.value }) }, sinces.map(([v, t]) => h('option', { value: v, selected: v === wanted().since }, t)));
  const chips = h('div', { class: 'chips', role: 'group', 'aria-label': 'State' });
  const compare = h('button', { type: 'button', onclick: () => go(`#/compare?runs=${[...chosen.keys()].join(',')}`) }, 'Compare');
  const cancel = h('button', { type: 'button', class: 'danger', onclick: cancelAll }, 'Cancel');
  const clear = h('button', { type: 'button', onclick: () => { chosen.clear(); body.querySelectorAll('input:checked').forEach((i) => { i.checked = false; }); bulk(); } }, 'Clear');
  const bulkText = h('span', {});
  const bulkBar = h('div', { class: 'bulk', hidden: true }, bulkText, compare, cancel, clear);
  const body = h('tbody', { id: 'run-rows' });
  const heads = [[h('span', { class: 'sr' }, 'Select'), 'pick'], 'Run', 'State', ['Stage', 'wide'], ['Step', 'num wide'], ['Loss', 'num wide'], ['Lost gangs', 'num wider'], ['Submitted', 'wide'], ['Took', 'num wider']];
  const none = h('div', { hidden: true }), error = h('p', { class: 'error', role: 'alert', hidden: true });
  const prev = h('button', { type: 'button', onclick: () => { const w = wanted(); const to = back.pop() ?? ''; navigate({ after: to, page: to ? w.page - 1 : '' }, true); } }, '← Newer'); prev.disabled = true;
  const next = h('button', { type: 'button', onclick: () => { back.push(wanted().after); navigate({ after: next.dataset.to, page: wanted().page + 1 }, true); scrollTo(0, 0); } }, 'Older →'); next.disabled = true;
  const where = h('span', { class: 'dim', role: 'status' }, 'Loading…');
  const pager = h('div', { class: 'pager' }, prev, where, next);
  const el = h('section', {}, h('div', { class: 'pagehead' }, h('h1', {}, 'Runs'), h('div', { class: 'filters' }, search, pool, since)), chips, error, bulkBar,
    h('div', { id: 'run-table' }, table(heads, body, { label: 'Runs' })), none, pager);

  function bulk() {
    bulkBar.hidden = chosen.size === 0;
    bulkText.textContent = `${chosen.size} selected`;
    compare.disabled = chosen.size < 2 || chosen.size > 8;
    compare.title = compare.disabled ? 'Two to eight runs can be compared' : '';
    cancel.disabled = ![...chosen.values()].some((r) => !ended(r));
  }
  async function cancelAll() {
    const open = [...chosen.values()].filter((r) => !ended(r));
    if (!(await confirmed(`Cancel ${open.length} run${open.length > 1 ? 's' : ''}?`, `${open.slice(0, 5).map((r) => r.name || r.run).join(', ')}${open.length > 5 ? ' and others' : ''} will end for good. What was committed stays.`, open.length > 1 ? 'Cancel the runs' : 'Cancel the run'))) return;
    const failed = [];
    for (const r of open) { try { await call(`${runPath(r.tenant, r.run)}/cancel`, { method: 'POST' }); } catch (e) { failed.push(`${r.name || r.run}: ${e.message}`); } }
    toast(failed.length ? `${open.length - failed.length} cancelled. ${failed.slice(0, 3).join('; ')}` : `${open.length} cancelled`, failed.length ? 'error' : '');
    chosen.clear();
    body.replaceChildren();
    refresh();
  }
  function row(r) {
    const id = `${r.tenant}/${r.run}`, p = progressOf(r), at = (r.stages || []).filter((s) => s.state === 'running').map((s) => s.name).join(', ');
    const pick = h('input', { type: 'checkbox', 'aria-label': `Select ${r.name || r.run}`, checked: chosen.has(id), 'data-focus': 'pick', onchange: () => { if (pick.checked) chosen.set(id, r); else chosen.delete(id); bulk(); } });
    const losses = early(r).length, wait = r.state === 'queued' || !at ? r.reason : at;
    const tr = h('tr', {},
      h('td', { class: 'pick' }, pick),
      h('td', { class: 'name' }, h('a', { href: runLink(r.tenant, r.run), 'data-focus': 'link', class: 'runlink' }, r.name || r.run), h('span', { class: 'id', title: id }, `${r.tenant}/${r.run.slice(0, 14)}`)),
      h('td', {}, badge(r.state), p ? h('small', { class: 'narrow' }, `${at} ${percent(p.done / p.total, 0)}`) : null),
      h('td', { class: 'wide stagecell' }, p ? h('div', { class: 'bar', role: 'img', 'aria-label': `${at} ${percent(p.done / p.total, 0)}` }, h('i', { 'width%': (100 * p.done / p.total).toFixed(1) })) : null, h('span', { class: 'reason', title: r.reason || '' }, p ? `${at} · ${percent(p.done / p.total, 0)}` : r.state === 'failed' && r.error ? r.error.message : wait || '')),
      h('td', { class: 'num wide' }, p ? `${integer(p.done)} / ${integer(p.total)}` : integer(stepOf(r) || NaN)),
      h('td', { class: 'num wide' }, r.progress?.loss ? figure(r.progress.loss) : ''),
      h('td', { class: 'num wider', title: early(r).map((e) => `generation ${e.generation}: ${e.cause}`).join('\n') }, losses || ''),
      h('td', { class: 'wide' }, when(r.created)),
      h('td', { class: 'num wider' }, lasted(r)));
    tr.addEventListener('click', (e) => { if (!e.target.closest('a, input, td.pick') && !String(getSelection())) go(runLink(r.tenant, r.run)); });
    return tr;
  }
  function draw(list) {
    const w = wanted(), counts = list.counts || {}, all = Object.values(counts).reduce((a, b) => a + b, 0) + (list.unread || 0);
    keyed(chips, [['', all], ...states.filter((s) => s !== 'skipped' || counts.skipped).map((s) => [s, counts[s] || 0])].map(([s, n]) => [s, n, w.state === s]), (x) => x[0] || 'all', ([s, n, on]) =>
      h('button', { type: 'button', 'aria-pressed': String(on), 'data-focus': 'chip', onclick: () => navigate({ state: s }) }, `${s || 'all'} `, h('b', {}, integer(n))));
    // Ages go on although nothing else has changed: a minute is fine enough.
    const minute = Math.floor(Date.now() / 20000);
    keyed(body, list.runs.map((r) => ({ ...r, minute })), (r) => `${r.tenant}/${r.run}`, row);
    for (const r of list.runs) if (chosen.has(`${r.tenant}/${r.run}`)) chosen.set(`${r.tenant}/${r.run}`, r);
    bulk();
    const filtered = w.q || w.state || w.pool || w.since || w.after;
    none.hidden = list.runs.length > 0;
    $('run-table').hidden = list.runs.length === 0;
    if (!list.runs.length) none.replaceChildren(filtered ? empty('No run is selected. ', h('button', { type: 'button', onclick: () => { search.value = ''; pool.value = ''; since.value = ''; navigate({ q: '', state: '', pool: '', since: '' }); } }, 'Show all runs'))
      : empty('No runs yet. Submit one: ', code('tunefleet submit run.yaml')));
    const from = (w.page - 1) * pageSize;
    where.textContent = list.runs.length ? `${integer(from + 1)}–${integer(from + list.runs.length)} of ${integer(list.total)}${list.unread ? `; ${integer(list.unread)} are still being counted` : ''}` : '';
    prev.disabled = !w.after;
    next.disabled = !list.next;
    next.dataset.to = list.next || '';
    pager.hidden = !list.next && !w.after && list.runs.length < pageSize && !list.unread && list.total <= list.runs.length && list.runs.length < 10;
  }
  async function refresh() {
    clearTimeout(timer);
    const mine = ++asked, w = wanted(), p = new URLSearchParams({ counts: 'true', limit: pageSize });
    for (const [k, v] of [['name', w.q], ['state', w.state], ['pool', w.pool], ['tenant', w.tenant], ['after', w.after]]) if (v) p.set(k, v);
    if (w.since) p.set('since', new Date(Date.now() - 1000 * Number(w.since)).toISOString());
    const began = Date.now();
    try {
      const list = await getJSON(`/v1/runs?${p}`);
      if (mine !== asked || dead) return;
      error.hidden = true;
      draw(list);
      page.live(true);
    } catch (e) {
      if (mine !== asked || dead) return;
      error.hidden = !e.status;
      error.textContent = e.message;
      page.live(false, e);
    }
    timer = setTimeout(() => (document.hidden ? arm() : refresh()), Math.max(2000, 6 * (Date.now() - began)));
  }
  const arm = () => document.addEventListener('visibilitychange', () => { if (!dead) refresh(); }, { once: true });
  getJSON('/v1/pools').then(({ pools }) => { for (const p of pools || []) pool.append(h('option', { value: p.pool, selected: p.pool === wanted().pool }, p.pool)); }).catch(() => {});
  const page = {
    el, title: 'Runs', live: () => {}, start: refresh, redraw: () => { body.replaceChildren(); refresh(); },
    close() { dead = true; clearTimeout(timer); clearTimeout(typing); },
    keys(k) {
      const links = [...body.querySelectorAll('a.runlink')], at = links.findIndex((a) => a.closest('tr').contains(document.activeElement));
      if (k === '/') { search.focus(); search.select(); return true; }
      if (k === 'j' || k === 'k') { links[Math.max(0, Math.min(links.length - 1, at < 0 ? 0 : at + (k === 'j' ? 1 : -1)))]?.focus(); return true; }
      if (k === 'x' && at >= 0) { links[at].closest('tr').querySelector('input').click(); return true; }
      return false;
    },
  };
  return page;
}
export { progressOf, stepOf, ended, fullTime };
