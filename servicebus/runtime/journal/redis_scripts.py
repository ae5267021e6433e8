"""What RedisJournal has the server do: each run of the script is one atomic step.

Every key begins with ``servicebus:{NODE}:``; the braces keep a node's keys together where a cluster is used.

=================  ===================================================================================================
``e:<id>``         what was begun and is not finished: o(wner; 0 while it waits), a(ttempts), d(eaths), x (expiry),
                   s (when it was signed)
``c:<chunk>``      one bit for each of 4,096 finished ids of a Sender
``chunks``         sorted set: each chunk by its expiry
``sent``           sorted set: each chunk by when the last of its ids was signed
``a:<id>``         an answer, behind ten digits that say until when it is returned
``answers``        list: until, size and id of each answer, oldest first; ``answer_bytes`` their sum
``o:<owner>``      exists while that worker lives
``owners``         the last number given to a worker
``forgotten``      hash: ids and answers that had to be forgotten early, and until when those ids were signed
=================  ===================================================================================================

Times are Unix seconds of the callers; what the server expires by itself it expires later than they ask for.
"""

from __future__ import annotations

from servicebus.runtime.journal.interface import REFUSED

__all__ = ["SCRIPT"]

SCRIPT = (
    f"local REFUSED = {REFUSED}"
    + """
local MARGIN = 3600
local prefix, command, me, now = KEYS[1], ARGV[1], ARGV[2], tonumber(ARGV[3])
local commands = {}

local function outlive(key, expires)
    redis.call('EXPIRE', key, math.max(1, math.ceil(expires - now) + MARGIN))
end

local function prolong(chunk, expires, sent)
    local known = tonumber(redis.call('ZSCORE', prefix .. 'chunks', chunk)) or 0
    if expires > known then
        redis.call('ZADD', prefix .. 'chunks', expires, chunk)
    end
    outlive(prefix .. 'c:' .. chunk, math.max(expires, known))
    if sent > (tonumber(redis.call('ZSCORE', prefix .. 'sent', chunk)) or -1) then
        redis.call('ZADD', prefix .. 'sent', sent, chunk)
    end
end

-- status, attempts, deaths, owner, answer
local function begin(forgotten_until, id, chunk, bit, expires, rerun, sent)
    if redis.call('GETBIT', prefix .. 'c:' .. chunk, bit) == 1 then
        prolong(chunk, expires, sent)
        local answer = redis.call('GET', prefix .. 'a:' .. id)
        local is_kept = answer and tonumber(string.sub(answer, 1, 10)) > now
        return {'FINISHED', 0, 0, 0, is_kept and string.sub(answer, 11)}
    end
    local key = prefix .. 'e:' .. id
    local entry = redis.call('HMGET', key, 'o', 'a', 'd', 'x', 's')
    local owner, attempts, deaths = entry[1], tonumber(entry[2]) or 0, tonumber(entry[3]) or 0
    if expires > (tonumber(entry[4]) or 0) then
        redis.call('HSET', key, 'x', expires)
        outlive(key, expires)
    end
    if sent > (tonumber(entry[5]) or -1) then
        redis.call('HSET', key, 's', sent)
    end
    if owner and owner ~= '0' then
        if owner == me or redis.call('EXISTS', prefix .. 'o:' .. owner) == 1 then
            return {'RUNNING', attempts, deaths, owner, false}
        end
        deaths = deaths + 1
    end
    if deaths > 0 and not rerun then
        return {'INTERRUPTED', attempts, deaths, owner, false}
    end
    redis.call('HSET', key, 'o', me, 'a', attempts + 1, 'd', deaths)
    local is_forgotten = attempts == 0 and sent > 0 and sent <= forgotten_until
    return {is_forgotten and 'FORGOTTEN' or 'NEW', attempts + 1, deaths, me, false}
end

-- For each id: id, chunk, bit, expiry, 1 if it may run again, when it was signed.
function commands.begin()
    local forgotten_until = tonumber(redis.call('HGET', prefix .. 'forgotten', 'until')) or 0
    local found = {}
    for i = 4, #ARGV, 6 do
        local expires, rerun, sent = tonumber(ARGV[i + 3]), ARGV[i + 4] == '1', tonumber(ARGV[i + 5])
        found[#found + 1] = begin(forgotten_until, ARGV[i], ARGV[i + 1], ARGV[i + 2], expires, rerun, sent)
    end
    return found
end

local function store(id, answer, keep, expires)
    local for_s = math.min(keep, expires - now)
    if for_s > 0 then
        local till = math.ceil(now + for_s)
        redis.call('SET', prefix .. 'a:' .. id, string.format('%010d', till) .. answer, 'EX', math.ceil(for_s) + MARGIN)
        redis.call('RPUSH', prefix .. 'answers', string.format('%d %d %s', till, #answer, id))
        redis.call('INCRBY', prefix .. 'answer_bytes', #answer)
    end
end

-- How long answers are kept; then for each id: id, chunk, bit, 1 if there is an answer, the answer.
function commands.finish()
    for i = 5, #ARGV, 5 do
        local id, chunk = ARGV[i], ARGV[i + 1]
        local entry = redis.call('HMGET', prefix .. 'e:' .. id, 'o', 'x', 's')
        if entry[1] == me then
            local expires = tonumber(entry[2])
            redis.call('DEL', prefix .. 'e:' .. id)
            redis.call('SETBIT', prefix .. 'c:' .. chunk, ARGV[i + 2], 1)
            prolong(chunk, expires, tonumber(entry[3]) or 0)
            if ARGV[i + 3] == '1' then
                store(id, ARGV[i + 4], tonumber(ARGV[4]), expires)
            end
        end
    end
end

-- Why; then for each id: id, chunk.
function commands.release()
    local why = ARGV[4]
    for i = 5, #ARGV, 2 do
        local key = prefix .. 'e:' .. ARGV[i]
        local entry = redis.call('HMGET', key, 'o', 'a', 'x', 's')
        if entry[1] == me then
            local attempts = tonumber(entry[2])
            if why == 'NOT_RUN' then
                attempts = attempts - 1
            end
            if why == 'DEAD_LETTERED' or attempts == 0 then
                redis.call('DEL', key)
                prolong(ARGV[i + 1], tonumber(entry[3]), tonumber(entry[4]) or 0)
            elseif why == 'REFUSED' then
                redis.call('HSET', key, 'a', attempts + REFUSED)
            else
                redis.call('HSET', key, 'o', '0', 'a', attempts)
            end
        end
    end
end

-- Ids that are run.
function commands.hold()
    for i = 4, #ARGV do
        local key = prefix .. 'e:' .. ARGV[i]
        if redis.call('TTL', key) < MARGIN then
            redis.call('EXPIRE', key, MARGIN)
        end
    end
end

local function forget(chunk)
    redis.call('DEL', prefix .. 'c:' .. chunk)
    redis.call('ZREM', prefix .. 'chunks', chunk)
    redis.call('ZREM', prefix .. 'sent', chunk)
end

local function forget_answers(bytes, max_bytes)
    local oldest = redis.call('LINDEX', prefix .. 'answers', 0)
    while oldest do
        local till, size, id = string.match(oldest, '^(%d+) (%d+) (.+)$')
        local is_over = tonumber(till) <= now
        if not is_over and bytes <= max_bytes then
            break
        end
        if not is_over then
            redis.call('HINCRBY', prefix .. 'forgotten', 'answers', 1)
        end
        redis.call('LPOP', prefix .. 'answers')
        redis.call('DEL', prefix .. 'a:' .. id)
        bytes = redis.call('DECRBY', prefix .. 'answer_bytes', size)
        oldest = redis.call('LINDEX', prefix .. 'answers', 0)
    end
    return bytes
end

-- Forgets what is over, and what is too much. Chunks at most, bytes of answers at most, chunks at once.
-- Returns chunks, bytes of answers, answers, ids and answers ever forgotten early, until when those ids were signed.
function commands.sweep()
    local max_chunks, max_bytes, at_once = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
    local over = redis.call('ZRANGEBYSCORE', prefix .. 'chunks', '-inf', now - MARGIN, 'LIMIT', 0, at_once)
    for _, chunk in ipairs(over) do
        forget(chunk)
    end
    local excess = math.min(at_once, redis.call('ZCARD', prefix .. 'chunks') - max_chunks)
    if excess > 0 then
        local first = redis.call('ZRANGE', prefix .. 'sent', 0, excess - 1, 'WITHSCORES')
        for i = 1, #first, 2 do
            redis.call('HINCRBY', prefix .. 'forgotten', 'ids', redis.call('BITCOUNT', prefix .. 'c:' .. first[i]))
            forget(first[i])
        end
        local known = tonumber(redis.call('HGET', prefix .. 'forgotten', 'until')) or 0
        redis.call('HSET', prefix .. 'forgotten', 'until', math.max(known, tonumber(first[#first])))
    end
    local bytes = forget_answers(tonumber(redis.call('GET', prefix .. 'answer_bytes')) or 0, max_bytes)
    local forgotten = redis.call('HMGET', prefix .. 'forgotten', 'ids', 'answers', 'until')
    return {redis.call('ZCARD', prefix .. 'chunks'), bytes, redis.call('LLEN', prefix .. 'answers'),
            tonumber(forgotten[1]) or 0, tonumber(forgotten[2]) or 0, tonumber(forgotten[3]) or 0}
end

return commands[command]()
"""
)
