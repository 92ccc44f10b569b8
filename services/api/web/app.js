// The dashboard: runs, one run with its live loss, pools, workers. Everything from the server is put into text nodes, never parsed as HTML.
const $ = (id) => document.getElementById(id);
const make = (tag, cls, text) => {
  const e = document.createElement(tag);
  if (cls) e.className = cls;
  if (text !== undefined && text !== null) e.textContent = text;
  return e;
};

// ---- token and requests
const stored = 'tunefleet.token';
function takeToken() {
  const m = /^#token=([\w.-]+)(?:&run=([a-z0-9_-]+\/[a-z0-9_-]+))?$/.exec(location.hash);
  if (m) { sessionStorage.setItem(stored, m[1]); history.replaceState(null, '', `${location.pathname}#/${m[2] ? `run/${m[2]}` : ''}`); }
  return sessionStorage.getItem(stored) || '';
}
let token = takeToken();
async function call(path, options = {}) {
  const r = await fetch(path, { ...options, headers: { ...(options.headers || {}), Authorization: `Bearer ${token}` } });
  if (r.status === 401) { askToken(); throw new Error('not signed in'); }
  if (!r.ok) {
    const body = await r.json().catch(() => null);
    throw new Error(body?.error?.message || `${r.status} ${r.statusText}`);
  }
  return r;
}
const getJSON = async (path) => (await call(path)).json();
function askToken() { $('login-error').hidden = !token; if (!$('login').open) $('login').showModal(); }
$('login').addEventListener('close', () => { token = $('token').value.trim(); sessionStorage.setItem(stored, token); $('token').value = ''; refresh(); route(); });

// ---- formatting
const ago = (t) => {
  const s = (Date.now() - Date.parse(t)) / 1000;
  if (!(s >= 0) || s > 1e9) return '';
  if (s < 90) return `${Math.round(s)} s ago`;
  if (s < 5400) return `${Math.round(s / 60)} min ago`;
  return s < 172800 ? `${Math.round(s / 3600)} h ago` : `${Math.round(s / 86400)} d ago`;
};
const short = (x) => (x === undefined || x === '' || !isFinite(x) ? '' : Number(x).toPrecision(4));
const bytes = (n) => { const u = ['B', 'KiB', 'MiB', 'GiB']; let i = 0; while (n >= 1024 && i < 3) { n /= 1024; i++; } return `${n.toFixed(i ? 1 : 0)} ${u[i]}`; };

// The last committed step of the stage at work, or of the last train stage that has ended.
const stepOf = (r) => (r.stage ? r.step : [...(r.stages || [])].reverse().find((s) => s.manifest)?.manifest.step) || '';

// ---- overview
const states = ['queued', 'running', 'paused', 'succeeded', 'failed', 'cancelled'];
let runs = [], wanted = '', selected = null, detail = null;
function drawStates() {
  $('states').replaceChildren(...states.map((s) => {
    const b = make('button', '', `${s} ${runs.filter((r) => r.state === s).length}`);
    b.type = 'button';
    b.setAttribute('aria-pressed', String(wanted === s));
    b.onclick = () => { wanted = wanted === s ? '' : s; drawRuns(); };
    return b;
  }));
}
function drawRuns() {
  drawStates();
  const q = $('filter').value.toLowerCase();
  const rows = runs.filter((r) => (!wanted || r.state === wanted) && `${r.tenant}/${r.run} ${r.name || ''}`.toLowerCase().includes(q));
  rows.sort((a, b) => Date.parse(b.created || 0) - Date.parse(a.created || 0));
  $('run-rows').replaceChildren(...rows.map((r) => {
    const tr = make('tr', selected === `${r.tenant}/${r.run}` ? 'selected' : '');
    tr.tabIndex = 0;
    const running = (r.stages || []).filter((s) => s.state === 'running').map((s) => s.name).join(', ');
    tr.append(make('td', '', `${r.tenant}/${r.run.slice(0, 12)}`), make('td', '', r.name || ''), make('td', r.state, r.state), make('td', 'wide', running || r.reason || ''),
      make('td', 'num', stepOf(r)), make('td', 'num', short(r.progress?.loss)), make('td', 'wide', ago(r.updated)));
    const open = () => { location.hash = `#/run/${r.tenant}/${r.run}`; };
    tr.onclick = open;
    tr.onkeydown = (e) => {
      if (e.key === 'Enter') open();
      if (e.key === 'j') tr.nextElementSibling?.focus();
      if (e.key === 'k') tr.previousElementSibling?.focus();
    };
    return tr;
  }));
  $('runs-empty').hidden = runs.length > 0;
}
function drawPools(list) {
  $('pool-rows').replaceChildren(...list.map((p) => {
    const tr = make('tr');
    tr.append(make('td', '', p.pool), make('td', 'num', p.queued), make('td', 'num', p.running), make('td', 'num', p.workers), make('td', 'num', p.workers_demanded), make('td', 'wide', p.reason || ''));
    return tr;
  }));
}
function drawWorkers(list) {
  $('worker-rows').replaceChildren(...list.map((w) => {
    const tr = make('tr');
    tr.append(make('td', '', w.name), make('td', '', w.pool), make('td', w.busy ? 'running' : '', (w.busy || 'idle') + (w.draining ? ' (draining)' : '')),
      make('td', 'wide', `${w.devices} × ${w.device}`), make('td', 'wide', w.host), make('td', 'num', w.pid), make('td', 'wide', ago(w.started)));
    return tr;
  }));
  $('workers-empty').hidden = list.length > 0;
}
let lastGood = 0;
async function refresh() {
  try {
    const [r, w, p] = await Promise.all([getJSON('/v1/runs?limit=500'), getJSON('/v1/workers'), getJSON('/v1/pools')]);
    runs = r.runs || [];
    drawRuns();
    $('runs-more').hidden = !r.next;
    if (r.next) $('runs-more').textContent = `Only the first ${runs.length} runs by tenant and id are shown here; tunefleet list --all-tenants shows every one.`;
    drawPools(p.pools || []);
    drawWorkers(w.workers || []);
    if (selected) await drawDetail();
    lastGood = Date.now();
    $('live').textContent = 'live';
    $('live').className = 'chip ok';
  } catch (e) {
    $('live').textContent = lastGood ? `stale since ${new Date(lastGood).toLocaleTimeString()}` : e.message;
    $('live').className = 'chip stale';
  }
}

// ---- one run
let series = {}, stageProgress = {}, charts = [], stream = null;
async function drawDetail() {
  const path = `/v1/runs/${selected}`;
  const v = await getJSON(path);
  detail = v;
  $('detail-title').textContent = `${v.name || 'run'} · ${v.tenant}/${v.run}`;
  $('detail-facts').textContent = [v.state, v.reason, v.step ? `committed step ${v.step}` : '', v.generation ? `generation ${v.generation}` : '',
    v.members?.length ? `members ${v.members.map((m) => m.worker).join(', ')}` : ''].filter(Boolean).join(' · ');
  $('detail-error').hidden = !v.error;
  if (v.error) $('detail-error').textContent = [v.error.place, v.error.message, v.error.hint].filter(Boolean).join(': ');
  const live = ['queued', 'running', 'paused'].includes(v.state);
  document.querySelector('[data-act=pause]').disabled = !['queued', 'running'].includes(v.state);
  document.querySelector('[data-act=resume]').disabled = v.state !== 'paused';
  document.querySelector('[data-act=cancel]').disabled = !live;
  $('stages').replaceChildren(...(v.stages || []).map((s) => {
    const p = stageProgress[s.name] || {};
    const share = s.state === 'succeeded' ? 1 : p.total ? Math.min(1, p.done / p.total) : 0;
    const row = make('div', 'stage'), bar = make('div', 'bar'), fill = make('i');
    fill.style.width = `${(100 * share).toFixed(1)}%`;
    bar.append(fill);
    row.append(make('span', '', s.name), make('span', s.state, s.state), bar, make('span', '', [p.total && `${Math.round(p.done)} / ${Math.round(p.total)}`, p.loss && `loss ${short(p.loss)}`, took(s)].filter(Boolean).join(' · ')));
    return row;
  }));
  drawTime(v.time);
  $('command').textContent = `tunefleet watch ${v.run} --tenant ${v.tenant}\ntunefleet get ${v.run} --tenant ${v.tenant} --json`;
  const outs = (await getJSON(`${path}/outputs`)).outputs || [];
  $('outputs').replaceChildren(...outs.map((o) => {
    const li = make('li'), b = make('button', '', `${o.name} (${bytes(o.bytes)})`);
    b.type = 'button';
    b.onclick = () => download(`${path}/outputs/${o.name.split('/').map(encodeURIComponent).join('/')}`, o.name.split('/').pop());
    li.append(b);
    return li;
  }));
  if (!outs.length) $('outputs').append(make('li', 'empty', 'nothing yet'));
  if ($('checkpoints').open) await drawCheckpoints();
}
async function drawCheckpoints() {
  const list = (await getJSON(`/v1/runs/${selected}/checkpoints`)).checkpoints || [];
  $('checkpoint-rows').replaceChildren(...list.reverse().map((c) => {
    const tr = make('tr');
    tr.append(make('td', '', c.name), make('td', '', c.stage), make('td', 'num', bytes(c.bytes)), make('td', '', c.pruned ? 'pruned' : c.role || ''), make('td', 'wide', ago(c.created)));
    return tr;
  }));
}
$('checkpoints').addEventListener('toggle', () => { if ($('checkpoints').open && selected) drawCheckpoints().catch(() => {}); });
// What the run's wall time went to: one bar, and the seconds of each cause.
const useful = ['step', 'eval', 'prep_stage', 'eval_stage', 'export_stage'];
function drawTime(t) {
  $('time').hidden = !t || !(t.wall > 0);
  if ($('time').hidden) return;
  const pct = (x) => `${(100 * x).toFixed(1)} %`;
  $('time-facts').textContent = [`wall time ${span(t.wall)}`, `goodput ${pct(t.goodput)}`, t.training ? `effective training time ${pct(t.training)}` : ''].filter(Boolean).join(' · ');
  const causes = Object.entries(t.seconds).filter(([, s]) => s > 0).sort((a, b) => useful.includes(b[0]) - useful.includes(a[0]) || b[1] - a[1]);
  $('time-bar').replaceChildren(...causes.map(([cause, s], i) => {
    const part = make('i', useful.includes(cause) ? 'good' : `bad b${i % 3}`);
    part.style.width = `${(100 * s / t.wall).toFixed(3)}%`;
    part.title = `${cause} ${span(s)}`;
    return part;
  }));
  $('time-rows').replaceChildren(...causes.map(([cause, s]) => {
    const tr = make('tr');
    tr.append(make('td', useful.includes(cause) ? 'succeeded' : '', cause.replace('_', ' ')), make('td', 'num', span(s)), make('td', 'num', pct(s / t.wall)));
    return tr;
  }));
}
const span = (s) => (s < 60 ? `${s.toFixed(1)} s` : s < 3600 ? `${Math.floor(s / 60)} min ${Math.round(s % 60)} s` : `${(s / 3600).toFixed(2)} h`);
async function download(path, name) {
  const a = make('a');
  a.href = URL.createObjectURL(await (await call(path)).blob());
  a.download = name;
  a.click();
  setTimeout(() => URL.revokeObjectURL(a.href), 10000);
}
document.querySelectorAll('[data-act]').forEach((b) => {
  b.onclick = async () => {
    if (b.dataset.act === 'cancel' && !confirm('Cancel this run? This is final.')) return;
    b.disabled = true;
    try { await call(`/v1/runs/${selected}/${b.dataset.act}`, { method: 'POST' }); } catch (e) { addLog(`${b.dataset.act}: ${e.message}`); }
    refresh();
  };
});

function addLog(text) {
  const li = make('li', '', text);
  $('log').prepend(li);
  while ($('log').childElementCount > 300) $('log').lastElementChild.remove();
}
const seriesOf = (stage) => (series[stage] ||= { at: new Map(), evals: new Map() });
function take(e) {
  const v = e.values || {};
  if (e.stage && (v.total || v.steps)) stageProgress[e.stage] = { done: v.done ?? v.rows ?? e.step ?? 0, total: v.total || v.steps, loss: v.loss };
  if (e.type === 'train.step') {
    const s = seriesOf(e.stage);
    // A step that was lost and done again overwrites its older self, and what came after that is gone. History may come late.
    const generation = e.generation || 0;
    if ((s.at.get(e.step)?.generation ?? -1) > generation) return;
    s.at.set(e.step, { ...v, generation });
    for (const [k, p] of s.at) if (k > e.step && p.generation < generation) s.at.delete(k);
    queueDraw();
    return;
  }
  const scores = Object.keys(v).filter((k) => k.startsWith('eval_') && !k.endsWith('_tokens'));
  if (e.type === 'progress' && e.stage && scores.length) {
    seriesOf(e.stage).evals.set(e.step || 0, v);
    queueDraw();
    addLog(`${new Date(e.at).toLocaleTimeString()}  evaluation  ${[e.stage, `step ${e.step || 0}`, ...scores.map((k) => `${k.slice(5)} ${short(v[k])}`)].join('  ')}`);
    return;
  }
  if (e.type !== 'progress') addLog(`${new Date(e.at).toLocaleTimeString()}  ${e.type}  ${[e.stage, e.step ? `step ${e.step}` : '', e.worker, e.message, e.error?.message].filter(Boolean).join('  ')}`);
}
let drawing = false;
function queueDraw() { if (!drawing) { drawing = true; setTimeout(() => { drawing = false; drawCharts(); }, 400); } }
// thin keeps the minimum and maximum of each bucket: at most 2,000 points however long the run.
function thin(xs, ys) {
  const n = 1000, size = Math.ceil(xs.length / n);
  if (size <= 2) return [xs, ys];
  const ox = [], oy = [];
  for (let i = 0; i < xs.length; i += size) {
    let lo = i, hi = i;
    for (let j = i; j < Math.min(i + size, xs.length); j++) { if (ys[j] < ys[lo]) lo = j; if (ys[j] > ys[hi]) hi = j; }
    for (const j of lo < hi ? [lo, hi] : hi < lo ? [hi, lo] : [lo]) { ox.push(xs[j]); oy.push(ys[j]); }
  }
  return [ox, oy];
}
function smooth(ys, a) { let m = null; return ys.map((y) => (m = m === null ? y : a * m + (1 - a) * y)); }
function took(s) {
  const from = Date.parse(s.started), sec = Math.round((Date.parse(s.ended) - from) / 1000);
  if (!(from > 0) || !(sec >= 0)) return '';
  return sec < 60 ? `${sec} s` : `${Math.floor(sec / 60)} min ${sec % 60} s`;
}
function drawCharts() {
  const css = getComputedStyle(document.documentElement), line = css.getPropertyValue('--accent').trim(), dim = css.getPropertyValue('--dim').trim(), grid = css.getPropertyValue('--line').trim();
  charts.forEach((c) => c.destroy());
  charts = [];
  $('charts').replaceChildren();
  const wantedKeys = [['loss', 'loss'], ['grad_norm', 'gradient norm'], ['learning_rate', 'learning rate'], ['tokens_per_second', 'tokens/s']];
  // All boxes first: the grid gives each its final width only when it knows how many there are.
  const plots = [];
  for (const [stage, s] of Object.entries(series)) {
    const steps = [...s.at.keys()].sort((a, b) => a - b);
    for (const [key, title] of wantedKeys) {
      const xs = steps.filter((k) => s.at.get(k)[key] !== undefined);
      if (xs.length < 2) continue;
      const [tx, ty] = thin(xs, xs.map((k) => s.at.get(k)[key]));
      const box = make('div', 'chart');
      $('charts').append(box);
      plots.push({ box, stage, key, title, tx, ty });
    }
    const at = [...s.evals.keys()].sort((a, b) => a - b).filter((k) => s.evals.get(k).eval_loss !== undefined);
    if (at.length > 1) {
      const box = make('div', 'chart');
      $('charts').append(box);
      plots.push({ box, stage, key: 'eval_loss', title: 'loss of evaluations', tx: at, ty: at.map((k) => s.evals.get(k).eval_loss) });
    }
  }
  document.querySelector('.charttools').hidden = !plots.length;
  for (const { box, stage, key, title, tx, ty } of plots) {
    const axis = { stroke: dim, grid: { stroke: grid, width: 1 }, ticks: { stroke: grid } };
    const data = [tx, ty], lines = [{ label: 'step' }, { label: title, stroke: key === 'loss' ? dim : line, width: 1 }];
    if (key === 'loss') { data.push(smooth(ty, Number($('smooth').value))); lines.push({ label: 'smoothed', stroke: line, width: 2 }); }
    charts.push(new uPlot({ title: `${stage}: ${title}`, width: box.clientWidth - 14, height: 220, cursor: { sync: { key: stage } }, series: lines, axes: [axis, { ...axis, size: 62 }],
      scales: { x: { time: false }, y: { distr: $('log-y').checked && key.endsWith('loss') ? 3 : 1 } } }, data, box));
  }
}
async function follow(path) {
  stream?.abort();
  const mine = (stream = new AbortController());
  let last = '';
  while (!mine.signal.aborted) {
    try {
      const r = await call(`/v1/runs/${path}/events`, { signal: mine.signal, headers: last ? { 'Last-Event-ID': last } : {} });
      const reader = r.body.pipeThrough(new TextDecoderStream()).getReader();
      let buffer = '', final = false;
      for (;;) {
        const { value, done } = await reader.read();
        if (done) break;
        buffer += value;
        let cut;
        while ((cut = buffer.indexOf('\n\n')) >= 0) {
          const block = buffer.slice(0, cut);
          buffer = buffer.slice(cut + 2);
          let id = '', data = '';
          for (const l of block.split('\n')) { if (l.startsWith('id: ')) id = l.slice(4); if (l.startsWith('data: ')) data += l.slice(6); }
          if (!data) continue;
          const e = JSON.parse(data);
          if (id) last = id;
          // The closing event has no id; the stream's own event of the same state has been shown.
          if (!id && e.type === 'run.state') final = true; else take(e);
        }
      }
      if (final) return;
    } catch (e) { if (mine.signal.aborted) return; }
    await new Promise((ok) => setTimeout(ok, 1500));
  }
}
function route() {
  const m = /^#\/run\/([a-z0-9_-]+)\/([a-z0-9_-]+)$/.exec(location.hash);
  const next = m ? `${m[1]}/${m[2]}` : null;
  if (next === selected && next) return;
  selected = next;
  $('detail').hidden = !selected;
  series = {}; stageProgress = {};
  $('log').replaceChildren();
  $('checkpoints').open = false;
  $('checkpoint-rows').replaceChildren();
  drawCharts();
  stream?.abort();
  if (selected) { drawDetail().catch(() => {}); follow(selected); }
  drawRuns();
}

// ---- behaviour
$('filter').oninput = drawRuns;
$('log-y').onchange = drawCharts;
$('smooth').oninput = queueDraw;
$('theme').onclick = () => {
  const root = document.documentElement, dark = root.dataset.theme ? root.dataset.theme === 'dark' : matchMedia('(prefers-color-scheme: dark)').matches;
  root.dataset.theme = dark ? 'light' : 'dark';
  localStorage.setItem('tunefleet.theme', root.dataset.theme);
  drawCharts();
};
if (localStorage.getItem('tunefleet.theme')) document.documentElement.dataset.theme = localStorage.getItem('tunefleet.theme');
addEventListener('keydown', (e) => {
  if (e.target.matches('input, dialog *')) { if (e.key === 'Escape') e.target.blur(); return; }
  if (e.key === '/') { e.preventDefault(); $('filter').focus(); }
  if (e.key === 'j' && !document.activeElement.matches('tr')) $('run-rows').firstElementChild?.focus();
  if (e.key === 'Escape') location.hash = '#/';
});
addEventListener('hashchange', route);
addEventListener('resize', queueDraw);
route();
if (token) refresh(); else askToken();
setInterval(() => { if (token && !document.hidden) refresh(); }, 2000);
