// Requests to the API. The browser holds a session cookie that scripts cannot read; the token is sent once, to sign in.
import { $ } from './lib.js';

export class Refused extends Error {
  constructor(message, status, info) { super(message); this.status = status; this.info = info; }
}

let waiting = null; // resolves when the user has signed in

// call fetches a path; a session that is over asks the user to sign in and then goes on.
export async function call(path, options = {}) {
  const r = await fetch(path, { credentials: 'same-origin', ...options });
  if (r.status === 401) {
    await askToken();
    return call(path, options);
  }
  if (!r.ok) {
    const body = await r.json().catch(() => null);
    const e = body?.error;
    throw new Refused([e?.message || `the server answered ${r.status} ${r.statusText}`, e?.hint].filter(Boolean).join('. '), r.status, e);
  }
  return r;
}
export const getJSON = async (path, options) => (await call(path, options)).json();

// signedIn asks whether this browser has a session, which renews it.
export async function signedIn() {
  try { return (await (await fetch('/v1/session', { credentials: 'same-origin' })).json()).signed_in === true; } catch { return false; }
}

async function signIn(options) {
  const r = await fetch('/v1/session', { method: 'POST', credentials: 'same-origin', ...options });
  return r.ok;
}

// takeCode signs in by the code of the address, which works once, and takes it out of the address and the history.
export async function takeCode() {
  const m = /^#code=([\w.-]+)(&run=([a-z0-9_-]+\/[a-z0-9_-]+))?$/.exec(location.hash);
  if (!m) return;
  history.replaceState(null, '', `${location.pathname}#/${m[3] ? `run/${m[3]}` : 'runs'}`);
  if (await signedIn()) return;
  if (!(await signIn({ body: JSON.stringify({ code: m[1] }), headers: { 'Content-Type': 'application/json' } }))) {
    askToken('The code of this address was used already, or is older than an hour.');
  }
}

export function askToken(why) {
  if (why) { $('login-error').textContent = why; $('login-error').hidden = false; }
  if (waiting) return waiting;
  const d = $('login');
  waiting = new Promise((ok) => {
    const submit = async (e) => {
      e.preventDefault();
      const token = $('token').value.trim();
      let good = false, problem = 'The server does not know this token.';
      try { good = await signIn({ headers: { Authorization: `Bearer ${token}` } }); } catch { problem = 'The server does not answer.'; }
      if (!good) { $('login-error').textContent = problem; $('login-error').hidden = false; $('token').select(); return; }
      $('token').value = '';
      $('login-error').hidden = true;
      d.removeEventListener('submit', submit);
      d.removeEventListener('cancel', stay);
      d.close();
      waiting = null;
      ok();
    };
    const stay = (e) => e.preventDefault(); // there is nothing to see without
    d.addEventListener('submit', submit);
    d.addEventListener('cancel', stay);
    d.showModal();
  });
  return waiting;
}

export async function signOut() {
  await fetch('/v1/session', { method: 'DELETE', credentials: 'same-origin' });
  askToken('You are signed out.').then(() => location.reload());
}
