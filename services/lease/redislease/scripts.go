package redislease

import "github.com/redis/go-redis/v9"

// Every script reads the server's own clock, so that no host's clock matters. A lease is a hash {worker, inc, issue, exp} whose key also
// expires on the server; exp decides, so that a server whose TTLs lag is still exact.
var (
	// acquire: KEYS lease; ARGV worker, incarnation, issue, ttl ms. Returns {1} or {0, worker, inc, issue}.
	acquire = redis.NewScript(`
local t = redis.call('TIME'); local now = t[1] * 1000 + math.floor(t[2] / 1000)
local h = redis.call('HMGET', KEYS[1], 'worker', 'inc', 'issue', 'exp')
if h[2] and tonumber(h[4]) > now and h[2] ~= ARGV[2] and tonumber(h[3]) >= tonumber(ARGV[3]) then return {0, h[1], h[2], h[3]} end
redis.call('HSET', KEYS[1], 'worker', ARGV[1], 'inc', ARGV[2], 'issue', ARGV[3], 'exp', now + ARGV[4])
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return {1}`)
	// renew: KEYS lease, control; ARGV as acquire. Returns {1, control} or {0}. A missing or expired lease is taken again; a lease of
	// another incarnation is lost unless it was given for a lower issue.
	renew = redis.NewScript(`
local t = redis.call('TIME'); local now = t[1] * 1000 + math.floor(t[2] / 1000)
local h = redis.call('HMGET', KEYS[1], 'inc', 'issue', 'exp')
if h[1] and tonumber(h[3]) > now then
  if h[1] ~= ARGV[2] and tonumber(h[2]) >= tonumber(ARGV[3]) then return {0} end
  if h[1] == ARGV[2] and tonumber(h[2]) > tonumber(ARGV[3]) then return {0} end
end
redis.call('HSET', KEYS[1], 'worker', ARGV[1], 'inc', ARGV[2], 'issue', ARGV[3], 'exp', now + ARGV[4])
redis.call('PEXPIRE', KEYS[1], ARGV[4])
local c = redis.call('GET', KEYS[2])
return {1, c or ''}`)
	// release: KEYS lease; ARGV incarnation, issue. Deletes the lease if it is mine.
	release = redis.NewScript(`
local h = redis.call('HMGET', KEYS[1], 'inc', 'issue')
if h[1] == ARGV[1] and h[2] == ARGV[2] then redis.call('DEL', KEYS[1]) return 1 end
return 0`)
	// holder: KEYS lease. Returns {worker, inc, issue} of a live lease, or {}.
	holder = redis.NewScript(`
local t = redis.call('TIME'); local now = t[1] * 1000 + math.floor(t[2] / 1000)
local h = redis.call('HMGET', KEYS[1], 'worker', 'inc', 'issue', 'exp')
if h[2] and tonumber(h[4]) > now then return {h[1], h[2], h[3]} end
return {}`)
	// withdraw: KEYS offer; ARGV incarnation. Deletes the offer if it is mine.
	withdraw = redis.NewScript(`
if redis.call('HGET', KEYS[1], 'inc') == ARGV[1] then redis.call('DEL', KEYS[1]) return 1 end
return 0`)
)
