// The frame: pages by the address, the live sign, theme, time zone and keys.
import { $, h, setZone, zone, localZone } from './lib.js';
import { takeCode, signOut, signedIn } from './api.js';
import { listPage } from './list.js';
import { runPage } from './run.js';
import { comparePage } from './compare.js';
import { fleetPage } from './fleet.js';

let page = null, lastGood = 0;
const go = (hash) => { if (location.hash === hash) route(); else location.hash = hash; };

function live(ok, error, stream) {
  if (ok) lastGood = Date.now();
  const [text, cls] = ok ? (stream === 'over' ? ['ended', ''] : stream === 'connecting' ? ['connecting', ''] : ['live', 'ok'])
    : [lastGood ? `no answer since ${new Date(lastGood).toLocaleTimeString('sv-SE', { timeZone: zone() })}, trying again` : error?.status ? error.message : 'the server does not answer', 'stale'];
  if ($('live').textContent !== text) $('live').textContent = text;
  $('live').className = `live ${cls}`;
  if (page) document.title = `${page.title} – tunefleet`;
}

function make() {
  const [path, query] = location.hash.replace(/^#\/?/, '').split('?');
  const m = /^run\/([a-z0-9][a-z0-9_-]{0,62})\/([a-z0-9][a-z0-9_-]{0,62})$/.exec(path);
  if (m) return ['runs', runPage(m[1], m[2], query, go)];
  if (path === 'compare') return ['compare', comparePage(query, go)];
  if (path === 'fleet') return ['fleet', fleetPage(query, go)];
  if (path === '' || path === 'runs') return ['runs', listPage(query, go)];
  return ['', { el: h('section', {}, h('h1', {}, 'No such page'), h('p', {}, h('a', { href: '#/runs' }, 'All runs'))), title: 'No such page', start() {}, close() {}, redraw() {}, keys: () => false }];
}

function route() {
  page?.close();
  const [which, next] = make();
  page = next;
  page.live = (...a) => { if (page === next) live(...a); };
  for (const a of document.querySelectorAll('nav a[data-page]')) { if (a.dataset.page === which) a.setAttribute('aria-current', 'page'); else a.removeAttribute('aria-current'); }
  $('main').replaceChildren(page.el);
  document.title = `${page.title} – tunefleet`;
  scrollTo(0, 0);
  page.start();
}

$('theme').onclick = () => {
  const root = document.documentElement, dark = root.dataset.theme ? root.dataset.theme === 'dark' : matchMedia('(prefers-color-scheme: dark)').matches;
  root.dataset.theme = dark ? 'light' : 'dark';
  localStorage.setItem('tunefleet.theme', root.dataset.theme);
  page?.redraw();
};
if (['dark', 'light'].includes(localStorage.getItem('tunefleet.theme'))) document.documentElement.dataset.theme = localStorage.getItem('tunefleet.theme');
matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => page?.redraw());
$('zone').options[0].textContent = localZone();
if (localZone() === 'UTC') document.querySelector('.zone').hidden = true;
$('zone').value = zone() || 'local';
$('zone').onchange = () => { setZone($('zone').value); page?.redraw(); };
$('keys').onclick = () => $('help').showModal();
$('signout').onclick = () => signOut();

let chord = 0; // when "g" was typed
addEventListener('keydown', (e) => {
  if (e.ctrlKey || e.metaKey || e.altKey || document.querySelector('dialog[open]')) return;
  if (e.target.matches('input:not([type=checkbox]):not([type=range]), select, textarea')) { if (e.key === 'Escape') e.target.blur(); return; }
  if (Date.now() - chord < 1000 && (e.key === 'r' || e.key === 'f')) { chord = 0; go(e.key === 'r' ? '#/runs' : '#/fleet'); return; }
  chord = e.key === 'g' ? Date.now() : 0;
  if (e.key === '?') { $('help').showModal(); return; }
  if (e.key === 'Escape' && location.hash.startsWith('#/run/')) { go('#/runs'); return; }
  if (page?.keys(e.key)) e.preventDefault();
});
addEventListener('hashchange', async () => { await takeCode(); route(); });

await takeCode();
await signedIn(); // the pages ask for the token where it is needed
route();
