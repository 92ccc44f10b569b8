/* global uPlot */
// Charts by uPlot: synced cursor, zoom at full resolution, raw and smoothed lines, marks, and what a screen reader needs.
import { h, figure, span, zone } from './lib.js';

// Colours of lines, apart for colour-blind eyes and on both grounds (after Okabe and Ito, the dark ones lightened).
const light = ['#0b63c5', '#c2410c', '#00734f', '#9c2f7d', '#7a5c00', '#5b3fb5', '#0f7186', '#8a2b2b'];
const dark = ['#6cb2ff', '#ff9e5e', '#4cc99a', '#f08fd0', '#e3c04f', '#b3a1ff', '#5fcbe0', '#ff9a94'];
export const isDark = () => { const t = document.documentElement.dataset.theme; return t ? t === 'dark' : matchMedia('(prefers-color-scheme: dark)').matches; };
export const colour = (i) => (isDark() ? dark : light)[i % light.length];

const units = {
  loss: 'nats a token', eval_loss: 'nats a token', learning_rate: '', grad_norm: 'L2', tokens_per_second: 'tokens/s', step_seconds: 's',
};
const names = { loss: 'Training loss', eval_loss: 'Evaluation loss', grad_norm: 'Gradient norm', learning_rate: 'Learning rate', tokens_per_second: 'Tokens per second' };
Object.assign(names, { accuracy: 'Accuracy', macro_f1: 'Macro F1', f1: 'F1', mcc: 'MCC', bleu4: 'BLEU-4', sacrebleu: 'sacreBLEU', chrf: 'chrF', rouge1: 'ROUGE-1', rouge2: 'ROUGE-2', rougeL: 'ROUGE-L' });
const first = ['loss', 'eval_loss', 'grad_norm', 'learning_rate', 'tokens_per_second'];
const skipped = new Set(['step', 'steps', 'total', 'leaves', 'part', 'rows', 'done', 'tokens', 'generation', 'epoch']);
export const title = (key) => names[key] || key.replace(/^eval_/, 'Evaluation ').replaceAll('_', ' ').replaceAll('/', ' ').replace(/^./, (c) => c.toUpperCase());
export const unit = (key) => units[key] ?? (/per_second$/.test(key) ? '' : /seconds?$/.test(key) ? 's' : /bytes$/.test(key) ? 'bytes' : '');
// metrics orders the figures that are worth a chart.
export function metrics(keys) {
  const all = [...new Set(keys)].filter((k) => !skipped.has(k) && !/^eval_(runtime|.*per_second|.*_tokens)$/.test(k));
  return all.sort((a, b) => (first.indexOf(a) + 1 || 99) - (first.indexOf(b) + 1 || 99) || (a < b ? -1 : 1));
}

// smooth is an exponential moving average without the pull of its start.
export function smooth(ys, a) {
  if (!(a > 0)) return ys;
  let sum = 0, weight = 0;
  return ys.map((y) => { sum = a * sum + (1 - a) * y; weight = a * weight + (1 - a); return sum / weight; });
}

// thin keeps minimum and maximum of each bucket of what is in view, so that a million steps cost what 2,000 do and no spike is lost.
function thin(xs, ys, from, to, points = 1000) {
  if (xs.length <= 2 * points) return [xs, ys];
  const ox = [], oy = [];
  let lo = 0, hi = xs.length;
  while (lo < xs.length && xs[lo] < from) lo++;
  while (hi > lo && xs[hi - 1] > to) hi--;
  const range = (a, b, n) => {
    const size = Math.max(1, Math.ceil((b - a) / n));
    for (let i = a; i < b; i += size) {
      let min = i, max = i;
      for (let j = i; j < Math.min(i + size, b); j++) { if (ys[j] < ys[min]) min = j; if (ys[j] > ys[max]) max = j; }
      for (const j of min < max ? [min, max] : max < min ? [max, min] : [min]) { ox.push(xs[j]); oy.push(ys[j]); }
    }
  };
  range(0, lo, 50); range(lo, hi, points); range(hi, xs.length, 50);
  return [ox, oy];
}

// clip is the range without the outermost hundredths, for a curve that a few spikes flatten.
function clip(all) {
  const s = all.filter(Number.isFinite).sort((a, b) => a - b);
  if (s.length < 20) return null;
  const q = (p) => s[Math.min(s.length - 1, Math.floor(p * s.length))];
  const lo = q(0.01), hi = q(0.99), pad = (hi - lo) * 0.08 || Math.abs(hi) * 0.1 || 1;
  return [lo - pad, hi + pad];
}

// together are the charts that zoom with each other, by their sync key.
const together = new Map();

// Chart draws the lines of one figure. Its data may be set again at any time: zoom and cursor stay.
export class Chart {
  // lines: [{label, xs, ys, colour index}], opts: {log, clip, smooth, by, sync, marks: [{x, text, kind}]}
  constructor(name, key) {
    this.name = name;
    this.key = key;
    this.plotBox = h('div', { class: 'plot' });
    this.zoomed = null;
    const u = unit(key);
    this.reset = h('button', { type: 'button', class: 'small', hidden: true, onclick: () => this.all((c) => c.unzoom()) }, 'Show all');
    this.summary = h('p', { class: 'last' });
    this.el = h('figure', { class: 'chart' }, h('figcaption', {}, h('strong', {}, title(key)), u ? h('span', { class: 'dim' }, ` ${u}`) : '', h('span', { class: 'grow' }), this.reset), this.plotBox, this.summary);
  }
  set(lines, opts) {
    const shape = JSON.stringify([lines.map((l) => [l.label, l.color]), opts.log, opts.by, opts.clip, opts.smooth > 0, isDark(), zone(), this.plotBox.clientWidth]);
    this.lines = lines.map((l) => ({ ...l, soft: smooth(l.ys, opts.smooth) }));
    if (this.opts?.sync !== opts.sync) { this.leave(); this.zoomed = null; this.reset.hidden = true; }
    this.opts = opts;
    if (opts.sync) together.set(opts.sync, (together.get(opts.sync) || new Set()).add(this));
    const last = lines.filter((l) => l.ys.length).map((l) => {
      const low = l.ys.reduce((a, b) => Math.min(a, b), Infinity);
      return `${lines.length > 1 ? `${l.label}: ` : ''}last ${figure(l.ys[l.ys.length - 1])}, lowest ${figure(low)}`;
    });
    this.summary.textContent = [...last.slice(0, 4), opts.say].filter(Boolean).join(' · ');
    this.plotBox.setAttribute('role', 'img');
    this.plotBox.setAttribute('aria-label', `${title(this.key)} of ${this.name} over ${lines[0]?.ys.length || 0} points: ${last.join('; ')}`);
    if (!this.plot || shape !== this.shape) { this.shape = shape; this.build(); } else this.fill();
  }
  data() {
    const [from, to] = this.zoomed || [-Infinity, Infinity], parts = [];
    for (const l of this.lines) {
      parts.push(thin(l.xs, l.ys, from, to));
      if (this.opts.smooth > 0) parts.push(thin(l.xs, l.soft, from, to));
    }
    if (!parts.length) return [[], []];
    return parts.length > 1 ? uPlot.join(parts) : parts[0];
  }
  fill() { this.plot.setData(this.data(), !this.zoomed); if (this.zoomed) this.plot.redraw(); }
  // all calls fn for each chart that shares the x axis.
  all(fn) { for (const c of together.get(this.opts.sync) || [this]) if (c.plot) fn(c); }
  unzoom() { this.zoomed = null; this.reset.hidden = true; this.plot.setData(this.data(), true); }
  zoom(from, to) {
    this.zoomed = [from, to];
    this.reset.hidden = false;
    this.plot.setData(this.data(), false);
    this.plot.setScale('x', { min: from, max: to });
  }
  build() {
    this.plot?.destroy();
    const css = getComputedStyle(document.documentElement), v = (n) => css.getPropertyValue(n).trim(), o = this.opts;
    const axis = { stroke: v('--dim'), grid: { stroke: v('--line'), width: 1 }, ticks: { stroke: v('--line'), size: 4 }, font: '12px system-ui, sans-serif', labelFont: '12px system-ui, sans-serif', labelSize: 16 };
    const logs = o.log && this.lines.every((l) => l.ys.every((y) => y > 0));
    const series = [{ label: o.by === 'time' || o.by === 'elapsed' ? 'time' : o.by === 'tokens' ? 'tokens' : 'step', value: (u, x) => (x === null || x === undefined ? '–' : o.by === 'time' ? this.time(x) : o.by === 'elapsed' ? span(x) : Math.round(x).toLocaleString('en-US')) }];
    const show = (u, x) => figure(x);
    for (const l of this.lines) {
      const c = l.color ?? colour(0);
      if (o.smooth > 0) {
        series.push({ label: this.lines.length > 1 ? `${l.label} raw` : 'raw', stroke: `${c}59`, width: 1, value: show, spanGaps: true, points: { show: l.ys.length < 3 } });
        series.push({ label: this.lines.length > 1 ? l.label : 'smoothed', stroke: c, width: 2, value: show, spanGaps: true, points: { show: false } });
      } else series.push({ label: l.label, stroke: c, width: 1.5, value: show, spanGaps: true, points: { show: l.ys.length < 40, size: 5 } });
    }
    const range = o.clip && !logs ? (u, lo, hi) => clip(this.lines.flatMap((l) => l.ys)) || [lo, hi] : undefined;
    const plot = new uPlot({
      width: Math.max(200, this.plotBox.clientWidth), height: 230, series, tzDate: (ts) => uPlot.tzDate(new Date(ts * 1e3), zone() || Intl.DateTimeFormat().resolvedOptions().timeZone),
      scales: { x: { time: o.by === 'time' }, y: { distr: logs ? 3 : 1, ...(range ? { range } : {}) } },
      axes: [{ ...axis, size: 26, label: o.by === 'time' ? undefined : o.by === 'elapsed' ? 'since its first step' : o.by === 'tokens' ? 'tokens' : 'step', ...(o.by === 'time' ? { space: 76, values: (u, xs) => xs.map((x) => (x === null ? '' : this.tick(x, u))) } : o.by === 'elapsed' ? { space: 60, values: (u, xs) => xs.map((x) => (x === null ? '' : span(x))) } : { values: (u, xs) => xs.map((x) => (x === null ? '' : Math.abs(x) >= 1e6 ? `${+(x / 1e6).toPrecision(4)}M` : Math.abs(x) >= 1e4 ? `${+(x / 1e3).toPrecision(4)}k` : String(+x.toPrecision(6)))) }) },
        { ...axis, size: 58, values: (u, ys) => ys.map((y) => (y === null ? '' : tick(y))) }],
      cursor: { sync: o.sync ? { key: o.sync, setSeries: false } : undefined, drag: { x: true, y: false, setScale: false }, focus: { prox: 24 } },
      focus: { alpha: 0.5 },
      legend: { live: true },
      hooks: {
        setSelect: [(u) => { if (u.select.width > 4) { const a = u.posToVal(u.select.left, 'x'), b = u.posToVal(u.select.left + u.select.width, 'x'); u.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false); this.all((c) => c.zoom(a, b)); } }],
        draw: [(u) => this.drawMarks(u)],
      },
    }, this.data(), this.plotBox);
    plot.over.addEventListener('dblclick', () => this.all((c) => c.unzoom()));
    this.plot = plot;
    if (this.zoomed) plot.setScale('x', { min: this.zoomed[0], max: this.zoomed[1] });
  }
  time(x) { return new Date(x * 1000).toLocaleTimeString('sv-SE', { timeZone: zone() }); }
  // tick is a time on the axis: seconds where less than ten minutes are shown, the day where more than two are.
  tick(x, u) {
    const d = new Date(x * 1000), wide = u.scales.x.max - u.scales.x.min, o = { timeZone: zone(), hour: '2-digit', minute: '2-digit' };
    if (wide < 600) o.second = '2-digit';
    return wide > 172800 ? d.toLocaleString('sv-SE', { timeZone: zone(), month: '2-digit', day: '2-digit', hour: '2-digit', minute: '2-digit' }) : d.toLocaleTimeString('sv-SE', o);
  }
  // drawMarks draws a line where a gang was broken, thin ones at commits.
  drawMarks(u) {
    const css = getComputedStyle(document.documentElement), g = u.ctx;
    g.save();
    for (const m of this.opts.marks || []) {
      if (m.x < u.scales.x.min || m.x > u.scales.x.max) continue;
      const x = Math.round(u.valToPos(m.x, 'x', true));
      g.strokeStyle = css.getPropertyValue(m.kind === 'bad' ? '--bad' : '--line').trim();
      g.setLineDash(m.kind === 'bad' ? [6, 4] : [2, 4]);
      g.lineWidth = (m.kind === 'bad' ? 1.5 : 1) * devicePixelRatio;
      g.beginPath(); g.moveTo(x, u.bbox.top); g.lineTo(x, u.bbox.top + u.bbox.height); g.stroke();
    }
    g.restore();
  }
  resize() { if (this.plot && this.plotBox.clientWidth > 0 && Math.abs(this.plotBox.clientWidth - this.plot.width) > 2) this.plot.setSize({ width: this.plotBox.clientWidth, height: 230 }); }
  leave() { const set = together.get(this.opts?.sync); set?.delete(this); if (set?.size === 0) together.delete(this.opts.sync); }
  destroy() { this.leave(); this.plot?.destroy(); this.plot = null; this.el.remove(); }
}
const tick = (y) => { const a = Math.abs(y); return a !== 0 && (a < 1e-3 || a >= 1e6) ? y.toExponential(1).replace('e+', 'e').replace('.0e', 'e') : a >= 1e4 ? `${+(y / 1e3).toPrecision(4)}k` : String(+y.toPrecision(4)); };

// Tools are the choices that all charts of a page share; the browser remembers them.
export class Tools {
  constructor(changed) {
    let saved = {};
    try { saved = JSON.parse(localStorage.getItem('tunefleet.charts') || '{}'); } catch { /* as when there is none */ }
    this.v = { smooth: 0.6, log: false, clip: false, by: 'step', ...saved };
    const set = (k, x) => { this.v[k] = x; localStorage.setItem('tunefleet.charts', JSON.stringify(this.v)); changed(); };
    const out = h('output', {}, String(this.v.smooth));
    this.el = h('div', { class: 'charttools' },
      h('label', {}, 'x axis ', h('select', { id: 'by', onchange: (e) => set('by', e.target.value) }, ['step', 'time', 'tokens'].map((x) => h('option', { value: x, selected: x === this.v.by }, x)))),
      h('label', {}, 'smoothing ', h('input', { id: 'smooth', type: 'range', min: 0, max: 0.99, step: 0.01, value: this.v.smooth, oninput: (e) => { out.value = e.target.value; set('smooth', Number(e.target.value)); } }), out),
      h('label', {}, h('input', { id: 'log', type: 'checkbox', checked: this.v.log, onchange: (e) => set('log', e.target.checked) }), ' log scale of losses'),
      h('label', {}, h('input', { id: 'clip', type: 'checkbox', checked: this.v.clip, onchange: (e) => set('clip', e.target.checked) }), ' without outliers'));
  }
  // of gives the options of one figure: schedules and speeds are not smoothed by what is meant for losses.
  of(key) {
    return { by: this.v.by, log: this.v.log && /loss$|perplexity$/.test(key), clip: this.v.clip, smooth: /^(learning_rate|eval_)/.test(key) ? 0 : this.v.smooth };
  }
}
