// The events of one run: a stream that is resumed when it breaks, and what charts and logs are made of.
import { call } from './api.js';
import { runPath } from './lib.js';

const maxLog = 20000;

// Series holds the steps of one stage in columns, one point a step. A step that was lost and done again by a later generation replaces its
// older self and what came after it. Events may come in any order: the history of a run is told after its newest events.
export class Series {
  constructor() { this.clear(); this.begins = new Map(); this.evals = new Map(); this.version = 0; this.lost = new Map(); }
  clear() { this.steps = []; this.gens = []; this.times = []; this.cols = new Map(); this.index = new Map(); this.sorted = true; }
  put(e) {
    const g = e.generation || 0, begin = this.begins.get(g);
    if (begin === undefined || e.step < begin) {
      this.begins.set(g, e.step);
      this.drop((i) => this.gens[i] < g && this.steps[i] >= e.step);
    }
    for (const [later, from] of this.begins) if (later > g && e.step >= from) { this.count(g, e.step); return; }
    let i = this.index.get(e.step);
    if (i === undefined) {
      i = this.steps.length;
      if (i && this.steps[i - 1] > e.step) this.sorted = false;
      this.steps.push(e.step);
      this.index.set(e.step, i);
    }
    this.gens[i] = g;
    this.times[i] = Date.parse(e.at) / 1000;
    for (const [k, v] of Object.entries(e.values || {})) {
      let col = this.cols.get(k);
      if (!col) this.cols.set(k, (col = []));
      col[i] = v;
    }
    this.version++;
  }
  // count notes that a step was done by a generation and lost.
  count(g, step) {
    let s = this.lost.get(g);
    if (!s) this.lost.set(g, (s = new Set()));
    s.add(step);
  }
  drop(which) {
    const keep = [];
    for (let i = 0; i < this.steps.length; i++) { if (which(i)) this.count(this.gens[i], this.steps[i]); else keep.push(i); }
    if (keep.length !== this.steps.length) this.take(keep);
  }
  take(order) {
    const pick = (a) => order.map((i) => a[i]);
    this.steps = pick(this.steps); this.gens = pick(this.gens); this.times = pick(this.times);
    for (const [k, c] of this.cols) this.cols.set(k, pick(c));
    this.index = new Map(this.steps.map((s, i) => [s, i]));
    this.sorted = true;
  }
  sort() {
    if (!this.sorted) this.take(this.steps.map((_, i) => i).sort((a, b) => this.steps[a] - this.steps[b]));
    return this;
  }
  // xy gives the points of one figure, by step, seconds or tokens.
  xy(key, by) {
    this.sort();
    const col = this.cols.get(key) || [], tokens = this.cols.get('tokens') || [], xs = [], ys = [];
    let sum = 0;
    for (let i = 0; i < this.steps.length; i++) {
      sum += tokens[i] || 0;
      if (col[i] === undefined || !Number.isFinite(col[i])) continue;
      const x = by === 'time' ? this.times[i] : by === 'tokens' ? sum : this.steps[i];
      if (xs.length && x <= xs[xs.length - 1]) continue;
      xs.push(x); ys.push(col[i]);
    }
    return [xs, ys];
  }
  evalXY(key, by) {
    const at = [...this.evals.keys()].sort((a, b) => a - b).filter((k) => Number.isFinite(this.evals.get(k).values[key]));
    const x = (k) => { if (by === 'time') return Date.parse(this.evals.get(k).at) / 1000; if (by !== 'tokens') return k;
      this.sort(); const t = this.cols.get('tokens') || []; let sum = 0; for (let i = 0; i < this.steps.length && this.steps[i] <= k; i++) sum += t[i] || 0; return sum; };
    const xs = [], ys = [];
    for (const k of at) { const v = x(k); if (!xs.length || v > xs[xs.length - 1]) { xs.push(v); ys.push(this.evals.get(k).values[key]); } }
    return [xs, ys];
  }
  evalKeys() { return [...new Set([...this.evals.values()].flatMap((e) => Object.keys(e.values).filter((k) => k.startsWith('eval_') && !k.endsWith('_tokens'))))]; }
  lostSteps(g) { return this.lost.get(g)?.size || 0; }
}

// level of an event: 2 errors, 1 what deserves a look, 0 the rest.
export function level(e) {
  if (e.error || e.type === 'run.state' && e.message === 'failed' || e.type === 'stage.state' && e.message === 'failed') return 2;
  return ['warning', 'gang.member_lost', 'preemption.notice', 'train.anomaly', 'checkpoint.fallback'].includes(e.type) ? 1 : 0;
}

export class Feed extends EventTarget {
  constructor(tenant, run) {
    super();
    Object.assign(this, { tenant, run, stages: new Map(), log: [], seen: new Set(), progress: new Map(), state: 'connecting', dropped: 0 });
    this.stop = new AbortController();
    this.follow();
  }
  close() { this.stop.abort(); }
  series(stage) {
    let s = this.stages.get(stage);
    if (!s) this.stages.set(stage, (s = new Series()));
    return s;
  }
  become(state) { if (this.state !== state) { this.state = state; this.dispatchEvent(new Event('state')); } }
  changed() {
    if (this.timer) return;
    this.timer = setTimeout(() => { this.timer = null; if (!this.stop.signal.aborted) this.dispatchEvent(new Event('data')); }, 250);
  }
  take(e) {
    const v = e.values || {};
    if (e.stage && e.type === 'progress' && (v.total || v.steps)) this.part(e);
    if (e.type === 'train.step') {
      if (v.total || v.steps) this.progress.set(e.stage, { done: e.step, total: v.total || v.steps, unit: 'steps' });
      this.series(e.stage).put(e);
    } else if (e.type === 'progress' && e.stage && Object.keys(v).some((k) => k.startsWith('eval_'))) {
      const s = this.series(e.stage);
      s.evals.set(e.step || 0, { at: e.at, values: v });
      s.version++;
      this.note({ ...e, type: 'evaluation' });
    } else if (e.type !== 'progress') {
      this.note(e);
    }
    this.changed();
  }
  // part adds up the parts of a stage: each tells its own rows.
  part(e) {
    const v = e.values, p = this.progress.get(e.stage) || { parts: new Map(), unit: v.rows !== undefined ? 'rows' : v.tokens !== undefined ? 'tokens' : '' };
    if (!p.parts) p.parts = new Map();
    p.parts.set(v.part ?? e.worker ?? 0, [v.done ?? v.rows ?? v.tokens ?? e.step ?? 0, v.total || v.steps]);
    p.done = 0; p.total = 0;
    for (const [done, total] of p.parts.values()) { p.done += done; p.total += total; }
    this.progress.set(e.stage, p);
  }
  // note keeps an event for the log, once: after a break the server may tell it again.
  note(e) {
    const key = e.type === 'run.submitted' ? e.type : (e.type === 'stage.state' ? [e.at, e.stage, e.message] : [e.at, e.type, e.stage, e.generation, e.step, e.worker, e.message]).join('|');
    if (this.seen.has(key)) return;
    this.seen.add(key);
    this.log.push(e);
    if (this.log.length > maxLog) { const old = this.log.splice(0, maxLog / 10); this.dropped += old.length; }
    const n = this.log.length;
    if (n > 1 && this.log[n - 2].at > e.at) this.log.sort((a, b) => (a.at < b.at ? -1 : a.at > b.at ? 1 : 0));
  }
  async follow() {
    let last = '', wait = 1000;
    while (!this.stop.signal.aborted) {
      try {
        const r = await call(`${runPath(this.tenant, this.run)}/events`, { signal: this.stop.signal, headers: last ? { 'Last-Event-ID': last } : {} });
        this.become('live');
        wait = 1000;
        let final = false;
        for await (const { id, event } of blocks(r.body)) {
          if (id) last = id;
          // The closing event has no id; the stream's own event of the same state has been told.
          if (!id && event.type === 'run.state') { final = true; if (!this.log.some((x) => x.type === 'run.state' && x.message === event.message)) this.take(event); } else this.take(event);
        }
        if (final) { this.become('over'); this.changed(); return; }
      } catch (e) {
        if (this.stop.signal.aborted) return;
        if (e.status === 404) { this.become('missing'); return; }
      }
      this.become('lost');
      await new Promise((ok) => setTimeout(ok, wait));
      wait = Math.min(wait * 1.7, 10000);
    }
  }
}

// blocks reads server-sent events.
async function* blocks(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let buffer = '';
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    buffer += value;
    let cut;
    while ((cut = buffer.indexOf('\n\n')) >= 0) {
      const block = buffer.slice(0, cut);
      buffer = buffer.slice(cut + 2);
      let id = '', data = '';
      for (const l of block.split('\n')) { if (l.startsWith('id: ')) id = l.slice(4); else if (l.startsWith('data: ')) data += l.slice(6); }
      if (data) yield { id, event: JSON.parse(data) };
    }
  }
}
