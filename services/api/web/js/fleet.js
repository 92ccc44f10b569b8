// Pools and workers, as they are now.
import { getJSON } from './api.js';
import { h, when, integer, bytes, percent, keyed, empty, code, table, runLink } from './lib.js';

export function fleetPage(query, go) {
  const only = new URLSearchParams(query).get('pool') || '';
  let dead = false, timer = null;
  const pools = h('tbody'), workers = h('tbody'), noWorkers = h('div', {}), noPools = h('div', {}), sum = h('p', { class: 'dim', role: 'status' });
  const text = h('input', { type: 'search', placeholder: 'Worker, host or run ( / )', 'aria-label': 'Search workers', oninput: () => last && draw(...last) });
  const select = h('select', { 'aria-label': 'Pool', onchange: () => go(`#/fleet${select.value ? `?pool=${select.value}` : ''}`) }, h('option', { value: '' }, 'every pool'));
  const poolTable = table(['Pool', ['Queued', 'num'], ['Running', 'num'], ['Workers', 'num'], ['Demanded', 'num'], 'Now', ['Control', 'wider']], pools, { label: 'Pools' });
  const workerTable = table(['Worker', 'Pool', 'Holds', 'Devices', ['Load', 'wide load'], ['Host', 'wide'], ['Process', 'num wider'], ['Up since', 'wide']], workers, { label: 'Workers' });
  const el = h('section', {}, h('h1', {}, 'Fleet'), h('h2', {}, 'Pools'), poolTable, noPools, h('div', { class: 'pagehead' }, h('h2', {}, 'Workers'), h('div', { class: 'filters' }, text, select)), sum, workerTable, noWorkers);
  let last = null;
  // Busy is "tenant/run/stage/number".
  const holds = (w) => { const [t, r, stage, n] = (w.busy || '').split('/'); return r ? [h('a', { href: runLink(t, r), title: w.busy }, `${r.slice(0, 14)}…`), ` ${stage} ${n}`] : w.busy || h('span', { class: 'dim' }, 'nothing'); };
  const load = (g) => { const some = [g.utilization >= 0 ? percent(g.utilization / 100, 0) : '', g.memory_used >= 0 ? `${bytes(g.memory_used)} of ${bytes(g.memory_total)}` : '', g.power_w >= 0 ? `${integer(g.power_w)} W` : '', g.temperature_c >= 0 ? `${g.temperature_c} °C` : ''].filter(Boolean).join(' · '); return h('div', { class: g.slowed ? 'warn' : '' }, some, g.slowed ? ` · slowed: ${g.slowed}` : ''); };
  function draw(p, w) {
    last = [p, w];
    for (const x of p) if (![...select.options].some((o) => o.value === x.pool)) select.append(h('option', { value: x.pool, selected: x.pool === only }, x.pool));
    keyed(pools, p, (x) => x.pool, (x) => h('tr', {}, h('th', { scope: 'row' }, h('a', { href: `#/runs?pool=${x.pool}` }, x.pool)), h('td', { class: 'num' }, integer(x.queued)), h('td', { class: 'num' }, integer(x.running)),
      h('td', { class: 'num' }, integer(x.workers)), h('td', { class: `num ${x.workers_demanded > x.workers ? 'warn' : ''}`, title: x.workers_demanded > x.workers ? 'More workers could be used now' : '' }, integer(x.workers_demanded)),
      h('td', { class: 'words' }, x.turn ? h('a', { href: runLink(x.turn.tenant, x.turn.run) }, `forming ${x.turn.stage} of ${x.turn.run.slice(0, 14)}…`) : '', x.turn ? '' : x.reason || ( h('span', { class: 'dim' }, x.running ? 'all is given out' : 'nothing to do'))), h('td', { class: 'wider dim', title: x.owner || '' }, (x.owner || 'none').slice(0, 24))));
    noPools.replaceChildren(p.length ? '' : empty('No pool has a scheduler yet: ', code('tunefleet up'), ' or ', code('tunefleet serve --pools cpu'), ' starts one.'));
    poolTable.hidden = !p.length;
    const q = text.value.trim().toLowerCase(), all = w.filter((x) => !only || x.pool === only), shown = all.filter((x) => !q || `${x.name} ${x.host} ${x.busy || ''} ${x.device}`.toLowerCase().includes(q));
    shown.sort((a, b) => (a.pool < b.pool ? -1 : a.pool > b.pool ? 1 : a.name.localeCompare(b.name, 'en', { numeric: true })));
    sum.textContent = all.length ? `${integer(all.length)} workers, ${integer(all.reduce((n, x) => n + x.devices, 0))} devices, ${integer(all.filter((x) => x.busy).length)} busy${all.some((x) => x.draining) ? `, ${all.filter((x) => x.draining).length} draining` : ''}${shown.length > 500 ? '; the first 500 are shown' : ''}` : '';
    keyed(workers, shown.slice(0, 500).map((x) => ({ ...x, minute: Math.floor(Date.now() / 20000) })), (x) => x.incarnation, (x) => h('tr', {}, h('th', { scope: 'row', class: 'words' }, x.name), h('td', {}, x.pool), h('td', {}, holds(x), x.draining ? h('span', { class: 'warn' }, ' draining') : ''),
      h('td', {}, `${x.devices} × ${x.device}`), h('td', { class: 'wide load' }, (x.gpus || []).map(load)), h('td', { class: 'wide words' }, x.host), h('td', { class: 'num wider' }, x.pid), h('td', { class: 'wide' }, when(x.started))));
    workerTable.hidden = !shown.length;
    workerTable.classList.toggle('noload', !shown.some((x) => x.gpus?.length));
    noWorkers.replaceChildren(shown.length ? '' : all.length ? empty('No worker is selected.') : empty('No workers. Start one: ', code(`tunefleet worker --pool ${only || 'cpu'}`)));
  }
  async function refresh() {
    clearTimeout(timer);
    try {
      const [p, w] = await Promise.all([getJSON('/v1/pools'), getJSON('/v1/workers')]);
      if (dead) return;
      draw(p.pools || [], w.workers || []);
      page.live(true);
    } catch (e) { if (!dead) page.live(false, e); }
    timer = setTimeout(refresh, document.hidden ? 15000 : 2000);
  }
  const page = { el, title: 'Fleet', live: () => {}, start: refresh, redraw: () => { workers.replaceChildren(); pools.replaceChildren(); refresh(); }, close() { dead = true; clearTimeout(timer); }, keys: (k) => (k === '/' ? (text.focus(), true) : false) };
  return page;
}
