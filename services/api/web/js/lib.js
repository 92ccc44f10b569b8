// Elements and formats. Whatever comes from the server is put into text nodes and properties, never parsed as HTML.

export const $ = (id) => document.getElementById(id);

// h makes an element: h('a', {class: 'x', href: '#', onclick: fn}, 'text', child, [children]); null and false are left out.
export function h(tag, props = {}, ...children) {
  const e = document.createElement(tag);
  for (const [k, v] of Object.entries(props)) {
    if (v === undefined || v === null || v === false) continue;
    if (k === 'class') e.className = v;
    else if (k.startsWith('on')) e.addEventListener(k.slice(2), v);
    else if (k === 'width%') e.style.width = `${v}%`;
    else if (k === 'left%') e.style.left = `${v}%`;
    else if (k === 'value' || k === 'checked' || k === 'disabled' || k === 'hidden' || k === 'selected' || k === 'indeterminate') e[k] = v;
    else e.setAttribute(k, v === true ? '' : v);
  }
  e.append(...children.flat(Infinity).filter((c) => c !== null && c !== undefined && c !== false && c !== ''));
  return e;
}

// ---- settings of this browser
const zoneKey = 'tunefleet.zone';
export const zone = () => (localStorage.getItem(zoneKey) === 'UTC' ? 'UTC' : undefined);
export const setZone = (z) => localStorage.setItem(zoneKey, z);
export const localZone = () => Intl.DateTimeFormat().resolvedOptions().timeZone || 'local time';

// ---- numbers
// brief shortens a name in its middle: what tells names of a sweep apart is at their ends.
export const brief = (s, n = 28) => (s.length <= n ? s : `${s.slice(0, Math.ceil(n / 2) - 1)}…${s.slice(-Math.floor(n / 2))}`);

const count = new Intl.NumberFormat('en-US', { maximumFractionDigits: 0 });
export const integer = (n) => (Number.isFinite(Number(n)) ? count.format(n) : '');
// figure shows a measurement by four significant digits, without an exponent where it needs none.
export function figure(x) {
  const n = Number(x);
  if (x === undefined || x === null || x === '' || Number.isNaN(n)) return '–';
  if (!Number.isFinite(n)) return n > 0 ? '∞' : '−∞';
  const a = Math.abs(n);
  if (a !== 0 && (a < 1e-3 || a >= 1e7)) return n.toExponential(2).replace('e+', 'e');
  if (a >= 1000) return count.format(n);
  return String(Number(n.toPrecision(4)));
}
export function bytes(n) {
  const u = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  let i = 0;
  while (n >= 1024 && i < u.length - 1) { n /= 1024; i++; }
  return `${n.toFixed(i && n < 100 ? 1 : 0)} ${u[i]}`;
}
export const percent = (x, digits = 1) => `${(100 * x).toFixed(digits)} %`;

// ---- times
export const stamp = (t) => { const ms = Date.parse(t); return ms > 0 ? ms : 0; };
export function span(s) {
  if (!(s >= 0)) return '';
  if (s < 10) return `${s.toFixed(1)} s`;
  if (s < 120) return `${Math.round(s)} s`;
  if (s < 7200) return `${Math.floor(s / 60)} min ${String(Math.floor(s % 60)).padStart(2, '0')} s`;
  if (s < 172800) return `${Math.floor(s / 3600)} h ${String(Math.floor((s % 3600) / 60)).padStart(2, '0')} min`;
  return `${Math.floor(s / 86400)} d ${Math.floor((s % 86400) / 3600)} h`;
}
export function ago(t) {
  const ms = stamp(t);
  if (!ms) return '';
  const s = Math.max(0, (Date.now() - ms) / 1000);
  if (s < 90) return `${Math.round(s)} s ago`;
  if (s < 5400) return `${Math.round(s / 60)} min ago`;
  return s < 172800 ? `${Math.round(s / 3600)} h ago` : `${Math.round(s / 86400)} d ago`;
}
export function fullTime(t) {
  const ms = stamp(t);
  return ms ? new Date(ms).toLocaleString('sv-SE', { timeZone: zone(), timeZoneName: 'short' }) : '';
}
export function clock(t) {
  const ms = stamp(t);
  return ms ? new Date(ms).toLocaleTimeString('sv-SE', { timeZone: zone() }) : '';
}
// when shows a time as how long ago, with the whole time for who points at it or listens.
export const when = (t) => (stamp(t) ? h('time', { datetime: new Date(stamp(t)).toISOString(), title: fullTime(t) }, ago(t)) : '');

// ---- words
const marks = { queued: '◌', running: '▶', paused: '❚❚', succeeded: '✓', failed: '✕', cancelled: '⊘', skipped: '↷', pending: '·' };
// badge shows a state by mark, word and colour.
export const badge = (state) => h('span', { class: `badge ${state}` }, h('span', { 'aria-hidden': 'true', class: 'mark' }, marks[state] || '·'), state);
export const empty = (...text) => h('p', { class: 'empty' }, ...text);
export const code = (text) => h('code', {}, text);
export const runPath = (tenant, run) => `/v1/runs/${encodeURIComponent(tenant)}/${encodeURIComponent(run)}`;
export const runLink = (tenant, run) => `#/run/${tenant}/${run}`;

export function toast(text, kind = '') {
  const t = h('div', { class: `toast ${kind}` }, h('span', {}, text), h('button', { type: 'button', 'aria-label': 'Close this message', onclick: () => t.remove() }, '×'));
  $('toasts').append(t);
  if (kind !== 'error') setTimeout(() => t.remove(), 6000);
  while ($('toasts').childElementCount > 4) $('toasts').firstElementChild.remove();
}

// confirmed asks before something that cannot be taken back.
export function confirmed(title, text, yes) {
  const d = $('confirm');
  $('confirm-title').textContent = title;
  $('confirm-text').textContent = text;
  $('confirm-yes').textContent = yes;
  d.returnValue = 'no';
  d.showModal();
  return new Promise((ok) => d.addEventListener('close', () => ok(d.returnValue === 'yes'), { once: true }));
}

// early are the gangs of a run that ended before their stage was done.
export const early = (v) => (v.ended || []).filter((e) => e.cause !== 'done');

// keyed puts rows into a table's body, keeping those that did not change, and the focus where it was.
export function keyed(body, items, keyOf, make) {
  const old = new Map([...body.children].map((e) => [e.dataset.key, e]));
  const focus = document.activeElement, within = focus && body.contains(focus);
  const focusKey = within && focus.closest('[data-key]')?.dataset.key, focusName = within && focus.dataset.focus;
  const rows = items.map((item) => {
    const key = keyOf(item), is = JSON.stringify(item);
    const had = old.get(key);
    if (had && had.is === is) return had;
    const row = make(item);
    row.dataset.key = key;
    row.is = is;
    return row;
  });
  if (rows.length === body.children.length && rows.every((r, i) => r === body.children[i])) return;
  body.replaceChildren(...rows);
  if (within && !body.contains(document.activeElement)) {
    const row = rows.find((r) => r.dataset.key === focusKey);
    (focusName && row?.querySelector(`[data-focus="${focusName}"]`) || row)?.focus({ preventScroll: true });
  }
}

// save gives the user a file made here.
export function save(name, type, text) {
  const a = h('a', { href: URL.createObjectURL(new Blob([text], { type })), download: name });
  a.click();
  setTimeout(() => URL.revokeObjectURL(a.href), 10000);
}

export function table(heads, body, props = {}) {
  return h('div', { class: `scroll ${props.class || ''}`, tabindex: '0', role: 'region', 'aria-label': props.label || 'Table' },
    h('table', {}, props.caption ? h('caption', {}, props.caption) : null,
      h('thead', {}, h('tr', {}, heads.map((x) => (typeof x === 'string' ? h('th', { scope: 'col' }, x) : h('th', { scope: 'col', class: x[1] }, x[0]))))), body));
}
