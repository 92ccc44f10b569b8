// The page of one run: what it does, what broke it, and tabs for its charts, events, checkpoints, evaluation, files and configuration.
import { getJSON, call } from './api.js';
import { Feed } from './feed.js';
import { h, badge, when, integer, figure, span, percent, stamp, fullTime, runPath, runLink, keyed, toast, confirmed, table, early } from './lib.js';
import { ended, progressOf, stepOf } from './list.js';
import { chartsTab, logsTab } from './runlive.js';
import { checkpointsTab, evaluationTab, filesTab, configTab } from './runtabs.js';

const tabs = [['overview', 'Overview'], ['charts', 'Charts'], ['logs', 'Events'], ['checkpoints', 'Checkpoints'], ['evaluation', 'Evaluation'], ['files', 'Files'], ['config', 'Configuration']];

export function runPage(tenant, run, query, go) {
  const path = runPath(tenant, run), feed = new Feed(tenant, run);
  let view = null, dead = false, timer = null, open = null, tab = new URLSearchParams(query).get('tab') || 'overview';
  if (!tabs.some(([k]) => k === tab)) tab = 'overview';
  const head = h('div', { class: 'runhead' }), facts = h('dl', { class: 'facts' }), problem = h('div', { class: 'problem', role: 'alert', hidden: true });
  const buttons = h('div', { class: 'buttons' }), error = h('p', { class: 'error', role: 'alert', hidden: true });
  const panel = h('div', { role: 'tabpanel', id: 'panel', tabindex: '0' });
  const bar = h('div', { class: 'tabs', role: 'tablist', 'aria-label': 'About the run' }, tabs.map(([k, t]) => h('button', { type: 'button', role: 'tab', id: `tab-${k}`, 'data-tab': k, 'aria-controls': 'panel', onclick: () => show(k) }, t)));
  bar.addEventListener('keydown', (e) => {
    const to = { ArrowRight: 1, ArrowLeft: -1 }[e.key];
    if (!to) return;
    const i = tabs.findIndex(([k]) => k === tab), next = tabs[(i + to + tabs.length) % tabs.length][0];
    show(next);
    bar.querySelector(`[data-tab=${next}]`).focus();
    e.preventDefault();
  });
  const el = h('section', {}, h('nav', { 'aria-label': 'Where you are', class: 'crumbs' }, h('a', { href: '#/runs' }, 'Runs'), ' / ', h('span', {}, `${tenant} / ${run}`)), head, error, problem, facts, bar, panel);

  function show(k) {
    tab = k;
    history.replaceState(null, '', `${runLink(tenant, run)}${k === 'overview' ? '' : `?tab=${k}`}`);
    for (const b of bar.children) { const on = b.dataset.tab === k; b.setAttribute('aria-selected', String(on)); b.tabIndex = on ? 0 : -1; }
    panel.setAttribute('aria-labelledby', `tab-${k}`);
    open?.close?.();
    const make = { overview: overviewTab, charts: chartsTab, logs: logsTab, checkpoints: checkpointsTab, evaluation: evaluationTab, files: filesTab, config: configTab }[k];
    open = make({ feed, path, tenant, run, view: () => view, go });
    panel.replaceChildren(open.el);
    open.update?.();
  }
  async function act(word) {
    if (word === 'cancel' && !(await confirmed('Cancel this run?', `${view?.name || run} ends for good; it cannot be resumed. What was committed${stepOf(view) ? ` (step ${stepOf(view)})` : ''} stays.`, 'Cancel the run'))) return;
    for (const b of buttons.children) b.disabled = true;
    try {
      if (word === 'retry') {
        const reply = await (await call(`/v1/dlq/${tenant}/${run}/retry`, { method: 'POST' })).json();
        toast('Submitted again as a new run');
        go(runLink(reply.tenant, reply.run));
        return;
      }
      const v = await (await call(`${path}/${word}`, { method: 'POST' })).json();
      toast(word === 'pause' && v.state === 'running' ? 'The run pauses at its next commit' : `The run is ${v.state}`);
    } catch (e) { toast(`Cannot ${word} the run: ${e.message}`, 'error'); }
    await refresh();
    for (const b of buttons.children) b.disabled = false;
  }
  const button = (word, text, props) => h('button', { type: 'button', 'data-act': word, 'data-focus': word, onclick: () => act(word), ...props }, text);
  function drawHead() {
    const v = view;
    keyed(head, [[v.name || v.run, v.state, v.reason]], () => 'head', () => h('div', {}, h('h1', { id: 'run-title' }, v.name || 'Run without a name', ' ', badge(v.state)), v.state === 'failed' && v.error ? '' : h('p', { class: 'reason' }, v.reason || '')));
    const waits = v.state === 'running' && /pausing/.test(v.reason || '');
    keyed(buttons, [...(v.state === 'paused' ? [['resume', 'Resume', 'primary']] : []), ...(v.state === 'queued' || v.state === 'running' ? [['pause', 'Pause', '']] : []),
      ...(ended(v) ? [] : [['cancel', 'Cancel', 'danger']]), ...(v.state === 'failed' ? [['retry', 'Submit again', '']] : [])].map((x) => [...x, waits]), (x) => x[0], ([w, t, c]) => button(w, t, { class: c }));
    if (!buttons.isConnected) head.after(buttons);
    problem.hidden = !v.error;
    if (v.error) {
      const e = v.error;
      keyed(problem, [e], () => 'problem', () => h('div', {}, h('strong', {}, e.place ? `${e.place}: ` : '', e.message), e.hint ? h('p', {}, e.hint) : '', h('p', { class: 'dim' }, `${e.code}${e.step ? `, step ${e.step}` : ''}`)));
    }
    const p = progressOf(v), pr = v.progress || {}, t = v.time || {};
    const speed = feedSpeed(feed, v.stage), left = p && speed && pr.total ? (p.total - p.done) / speed : 0;
    const rows = [
      ['Submitted', when(v.created)], ['Took', ended(v) && t.wall ? span(t.wall) : ''],
      ['Step', p ? `${integer(p.done)} of ${integer(p.total)}` : stepOf(v) ? integer(stepOf(v)) : ''], ['Time left', left > 0 && v.members?.length ? `about ${span(left)} of ${v.stage || 'the stage'}` : ''],
      ['Loss', v.state === 'running' && v.members?.length && pr.loss ? figure(pr.loss) : ''], ['Speed', v.state === 'running' && v.members?.length && pr.tokens_per_second ? `${figure(pr.tokens_per_second)} tokens/s` : ''],
      ['Committed', v.step && v.stage && !ended(v) ? `step ${integer(v.step)}` : ''], ['Gang', v.members?.length ? `${v.members.length} · ${v.members.map((m) => m.worker).join(', ')}` : ''],
      ['Generation', v.generation || ''], ['Lost gangs', early(v).length || ''],
      ['Goodput', t.goodput ? percent(t.goodput) : ''], ['Pool', h('a', { href: '#/fleet' }, v.pool)], ['Priority', v.priority || ''],
    ].filter(([, x]) => x !== '' && x !== undefined);
    facts.replaceChildren(...rows.map(([k, x]) => h('div', {}, h('dt', {}, k), h('dd', {}, x))));
  }
  async function refresh() {
    clearTimeout(timer);
    try {
      const v = await getJSON(path);
      if (dead) return;
      view = v;
      page.title = `${v.name || v.run.slice(0, 12)} · ${v.state}`;
      drawHead();
      error.hidden = true;
      open?.update?.();
      page.live(feed.state !== 'lost', null, feed.state);
    } catch (e) {
      if (dead) return;
      if (e.status) { error.hidden = false; error.textContent = e.message; }
      if (e.status === 404) { page.live(true); bar.hidden = true; head.replaceChildren(h('h1', {}, 'No such run')); panel.replaceChildren(h('p', {}, h('a', { href: '#/runs' }, 'All runs'))); return; }
      page.live(false, e);
    }
    timer = setTimeout(refresh, document.hidden ? 10000 : ended(view || {}) ? 15000 : 2000);
  }
  feed.addEventListener('state', () => { page.live(feed.state !== 'lost', null, feed.state); if (feed.state === 'over') refresh(); });
  const page = {
    el, title: run, live: () => {},
    start() { show(tab); return refresh(); },
    redraw() { head.replaceChildren(); if (view) drawHead(); show(tab); },
    close() { dead = true; clearTimeout(timer); feed.close(); open?.close?.(); },
    keys(k) {
      if (k === '/' && panel.querySelector('input[type=search]')) { panel.querySelector('input[type=search]').focus(); return true; }
      return false;
    },
  };
  return page;
}

// feedSpeed is steps a second over the last minute of what was told.
function feedSpeed(feed, stage) {
  const s = feed.stages.get(stage)?.sort();
  if (!s || s.steps.length < 3) return 0;
  const n = s.steps.length - 1;
  let i = n;
  while (i > 0 && s.times[n] - s.times[i] < 60) i--;
  return s.times[n] > s.times[i] ? (s.steps[n] - s.steps[i]) / (s.times[n] - s.times[i]) : 0;
}

// ---- overview
const useful = ['step', 'eval', 'prep_stage', 'eval_stage', 'export_stage'];
const causes = {
  step: 'committed steps', eval: 'evaluation while training', prep_stage: 'preparing data', eval_stage: 'evaluating', export_stage: 'exporting', uncommitted: 'steps not committed yet', queue: 'waiting for workers',
  paused: 'paused', start: 'connecting the gang', load: 'loading weights and state', checkpoint: 'waiting for checkpoints', lost: 'lost with a gang', regroup: 'forming the gang again', idle: 'nothing at work', other: 'other',
};

function overviewTab({ feed, view, tenant, run }) {
  const line = h('div', { class: 'timeline' }), gangs = h('div', {}), time = h('div', {}), cli = h('pre', { tabindex: '0' }, `tunefleet watch ${run} --tenant ${tenant}\ntunefleet get ${run} --tenant ${tenant}\ntunefleet logs ${run} --tenant ${tenant}\ntunefleet outputs ${run} --tenant ${tenant} --to out/`);
  const el = h('div', { class: 'overview' }, h('h2', {}, 'Stages'), line, gangs, time, h('h2', {}, 'On the command line'), cli);
  const update = () => { const v = view(); if (v) { drawLine(line, v, feed); drawGangs(gangs, v, feed); drawTime(time, v.time); } };
  feed.addEventListener('data', update);
  return { el, update, close: () => feed.removeEventListener('data', update) };
}

// drawLine shows stages over time, and in train stages where gangs ended.
function drawLine(box, v, feed) {
  const stages = v.stages || [], from = stamp(v.created), to = Math.max(from + 1000, ended(v) ? Math.max(...stages.map((s) => stamp(s.ended)), stamp(v.updated) * (stages.some((s) => stamp(s.ended)) ? 0 : 1)) : Date.now());
  const at = (t) => Math.max(0, Math.min(100, 100 * (t - from) / (to - from)));
  keyed(box, stages.map((s) => ({ s, p: feed.progress.get(s.name) && [feed.progress.get(s.name).done, feed.progress.get(s.name).total, feed.progress.get(s.name).unit], now: s.state === 'running' ? Math.floor(Date.now() / 1000) : to, ends: early(v).length })), (x) => x.s.name, ({ s, p }) => {
    const begin = stamp(s.started), end = stamp(s.ended) || (s.state === 'running' ? to : 0);
    const took = begin && end ? (end - begin) / 1000 : NaN;
    const share = s.state === 'succeeded' ? 1 : p?.[1] ? Math.min(1, p[0] / p[1]) : 0;
    const track = h('div', { class: 'track', role: 'img', 'aria-label': begin ? `${s.name} from ${fullTime(s.started)}${s.ended ? ` to ${fullTime(s.ended)}` : ''}` : `${s.name} has not begun` });
    if (begin) {
      const seg = h('i', { class: `seg ${s.state}`, 'left%': at(begin).toFixed(2), 'width%': Math.max(0.4, at(end) - at(begin)).toFixed(2), title: `${fullTime(s.started)} – ${s.ended ? fullTime(s.ended) : 'now'}` });
      track.append(seg);
      if (s.kind === 'train') for (const e of early(v)) { const t = stamp(e.at); if (t >= begin - 1000 && t <= end + 1000) track.append(h('b', { class: `endmark ${e.cause}`, 'left%': at(t).toFixed(2), title: `generation ${e.generation} ended: ${e.cause}, ${fullTime(e.at)}` })); }
    }
    return h('div', { class: 'stage' }, h('span', { class: 'stagename' }, s.name, h('small', {}, s.kind)), badge(s.state), track,
      h('span', { class: 'stagefacts' }, [p?.[1] && s.state !== 'succeeded' ? `${integer(p[0])} / ${integer(p[1])} ${p[2]} · ${percent(share, 0)}` : s.manifest ? `step ${integer(s.manifest.step)}` : '', Number.isFinite(took) ? span(took) : ''].filter(Boolean).join(' · ')));
  });
}

// drawGangs tells of each gang that ended early: when, why, who was gone, and how many steps had to be done again.
function drawGangs(box, v, feed) {
  const list = early(v), lost = feed.log.filter((e) => e.type === 'gang.member_lost' || e.type === 'preemption.notice');
  const rows = list.map((e) => {
    const told = lost.filter((x) => x.generation === e.generation || Math.abs(stamp(x.at) - stamp(e.at)) < 30000 && (x.generation || 0) <= e.generation);
    const who = [...new Set(told.map((x) => x.worker).filter(Boolean))], words = told.map((x) => x.message).filter(Boolean);
    let again = 0;
    for (const s of feed.stages.values()) again += s.lostSteps(e.generation);
    return { e, who, why: e.error?.message || words[0] || '', again };
  });
  if (!rows.length) { box.replaceChildren(); return; }
  const say = { preempted: 'gave its workers back', infrastructure: 'lost a worker', application: 'failed by its own doing', poison: 'kills its workers' };
  let body = box.querySelector('tbody');
  if (!body) {
    body = h('tbody');
    box.replaceChildren(h('h2', {}, 'Gangs that ended early'), table([['Generation', 'num'], 'When', 'Cause', 'Told by', ['Went on from step', 'num'], ['Steps done again', 'num'], 'What was said'], body, { label: 'Gangs that ended early' }));
  }
  keyed(body, rows.reverse(), (r) => String(r.e.generation), ({ e, who, why, again }) => h('tr', {}, h('td', { class: 'num' }, e.generation), h('td', {}, when(e.at)), h('td', { class: `cause ${e.cause}` }, e.cause, h('small', {}, say[e.cause] || '')),
    h('td', {}, who.join(', ')), h('td', { class: 'num' }, integer(e.step)), h('td', { class: 'num' }, integer(again)), h('td', { class: 'words' }, why)));
}

function drawTime(box, t) {
  if (!t || !(t.wall > 0)) { box.replaceChildren(); return; }
  const parts = Object.entries(t.seconds).filter(([, s]) => s > 0.0005 * t.wall).sort((a, b) => useful.includes(b[0]) - useful.includes(a[0]) || b[1] - a[1]);
  const open = box.querySelector('details')?.open;
  box.replaceChildren(h('h2', {}, 'Where the time went'),
    h('p', {}, [`${span(t.wall)} in all`, `goodput ${percent(t.goodput)}`, t.training ? `effective training time ${percent(t.training)}` : ''].filter(Boolean).join(' · ')),
    h('div', { class: 'timebar', role: 'img', 'aria-label': parts.map(([c, s]) => `${causes[c] || c} ${percent(s / t.wall, 0)}`).join(', ') }, parts.map(([c, s], i) => h('i', { class: useful.includes(c) ? 'good' : `bad b${i % 3}`, 'width%': (100 * s / t.wall).toFixed(3), title: `${causes[c] || c}: ${span(s)}` }))),
    h('details', { open }, h('summary', {}, 'By cause'), h('table', {}, h('thead', {}, h('tr', {}, h('th', { scope: 'col' }, 'Cause'), h('th', { class: 'num', scope: 'col' }, 'Time'), h('th', { class: 'num', scope: 'col' }, 'Share'))),
      h('tbody', {}, parts.map(([c, s]) => h('tr', {}, h('td', {}, h('i', { class: `swatch ${useful.includes(c) ? 'good' : ''}` }), causes[c] || c.replaceAll('_', ' ')), h('td', { class: 'num' }, span(s)), h('td', { class: 'num' }, percent(s / t.wall))))))));
}
