-- Reads the headers of a call once, so that the limits and the audit can't differ. It writes what
-- the call says into Envoy's filter state. Of the API key it writes the fingerprint only.

local NONE, MALFORMED = "(none)", "(malformed)" -- no ID has parentheses
local SEVERAL = "(several)" -- nor has a fingerprint

-- The fingerprint: the first 16 digits of the SHA-256. Envoy itself has no hash. See FIPS 180-4.
local band, bnot, bxor, ror, rshift = bit.band, bit.bnot, bit.bxor, bit.ror, bit.rshift

-- FIPS 180-4 takes its constants from the first 32 bits after the point of roots of primes.
local function fraction(number)
    return bit.tobit(math.floor(number % 1 * 2 ^ 32))
end

local START, ADDED = {}, {} -- from square roots and from cube roots
local candidate = 1
while #ADDED < 64 do
    candidate = candidate + 1
    local prime = true
    for divisor = 2, math.sqrt(candidate) do
        prime = prime and candidate % divisor > 0
    end
    if prime then
        table.insert(START, fraction(candidate ^ (1 / 2)))
        table.insert(ADDED, fraction(candidate ^ (1 / 3)))
    end
end

-- Return a block's 16 words of 32 bits, and the 48 words that are made from them.
local function words_of(block)
    local words = {}
    for i = 1, 16 do
        local one, two, three, four = block:byte(4 * i - 3, 4 * i)
        words[i] = bit.tobit(((one * 256 + two) * 256 + three) * 256 + four)
    end
    for i = 17, 64 do
        local x, y = words[i - 15], words[i - 2]
        local sum = words[i - 16] + bxor(ror(x, 7), ror(x, 18), rshift(x, 3))
        words[i] = bit.tobit(sum + words[i - 7] + bxor(ror(y, 17), ror(y, 19), rshift(y, 10)))
    end
    return words
end

local function fingerprint(text)
    local bits = #text * 8
    text = text .. "\128" .. ("\0"):rep((55 - #text) % 64 + 4)
    for shift = 24, 0, -8 do
        text = text .. string.char(rshift(bits, shift) % 256)
    end
    local state = { unpack(START, 1, 8) }
    for from = 1, #text, 64 do
        local words = words_of(text:sub(from, from + 63))
        local a, b, c, d, e, f, g, h = unpack(state)
        for i = 1, 64 do
            local choice = bxor(band(e, f), band(bnot(e), g))
            local majority = bxor(band(a, bxor(b, c)), band(b, c))
            local one = h + bxor(ror(e, 6), ror(e, 11), ror(e, 25)) + choice + ADDED[i] + words[i]
            local two = bxor(ror(a, 2), ror(a, 13), ror(a, 22)) + majority
            a, b, c, d, e, f, g, h = bit.tobit(one + two), a, b, c, bit.tobit(d + one), e, f, g
        end
        for i, value in ipairs({ a, b, c, d, e, f, g, h }) do
            state[i] = bit.tobit(state[i] + value)
        end
    end
    return bit.tohex(state[1]) .. bit.tohex(state[2])
end

-- Return the names and values of a call's query.
local function parameters_of(headers)
    local query = (headers:get(":path") or ""):match("%?([^#]*)") or ""
    return query:gmatch("([^&;=]*)=?([^&;]*)")
end

-- Return what the audit says of the call's API key. If it has several, nobody knows which one the
-- provider takes. Envoy joins some headers of the same name with a comma, which no key has.
local function key_in(headers)
    local keys = {}
    local function add(key)
        keys[#keys + 1] = key ~= "" and key or nil
    end
    for _, name in ipairs({ "authorization", "x-api-key", "x-goog-api-key" }) do
        for i = 0, headers:getNumValues(name) - 1 do
            local value = headers:getAtIndex(name, i)
            if name == "authorization" then
                -- Envoy has removed spaces at the end, also that after a "Bearer" without a key.
                value = (value .. " "):gsub("^[Bb][Ee][Aa][Rr][Ee][Rr] +", ""):gsub(" $", "")
            end
            add(value)
        end
    end
    for name, value in parameters_of(headers) do
        if name == "key" then
            add((value:gsub("%%(%x%x)", function(digits)
                return string.char(tonumber(digits, 16))
            end)))
        end
    end
    local key = table.concat(keys, ",")
    return key == "" and "" or key:find(",") and SEVERAL or fingerprint(key)
end

-- Google also takes "$key" and "%6bey" for "key". With the other parameters, it leaves out the
-- tokens, or states them in a format that tokens.lua can't read.
local function has_odd_query(headers)
    for name, value in parameters_of(headers) do
        if name:find("[%%$]") or name == "fields" or name == "callback" then
            return true
        end
        if name == "alt" and value ~= "sse" and value ~= "json" then
            return true
        end
    end
    return false
end

-- Return the ID in a header. Two headers of a name are one with a comma, so they are malformed.
local function id_in(headers, name)
    local id = headers:get(name) or ""
    if id == "" then
        return NONE
    end
    return #id >= 8 and #id <= 64 and not id:find("[^%w_-]") and id or MALFORMED
end

function envoy_on_request(handle)
    local headers, info = handle:headers(), handle:streamInfo()
    local function set(name, value)
        info:filterState():set("cagent." .. name, "envoy.hashable_string", value)
    end

    local session = id_in(headers, "x-cagent-session-id")
    local root = id_in(headers, "x-cagent-root-session")
    if session == NONE or session == MALFORMED or root == NONE then
        root = session
    end
    local key = key_in(headers)
    if key == SEVERAL or has_odd_query(headers) then
        set("malformed", "true")
    end
    set("session", session)
    set("root", root)
    set("key", key)
    set("model", (headers:get("x-cagent-model") or ""):sub(1, 128))
    set("forward", headers:get("x-cagent-forward") or "")
    -- The path ends where a key may begin: not only a query has keys.
    set("path", (headers:get(":path") or ""):match("^[%w/:._~@-]*"))

    -- Whose limit the call counts for. The same ID with another key is another session, and
    -- sub-sessions share what their root has. All malformed calls share one limit.
    local limited = root
    if root == NONE then
        limited = info:downstreamRemoteAddress():gsub(":%d+$", "")
    elseif root ~= MALFORMED then
        limited = key .. " " .. root
        set("payer", limited)
    end
    set("limited", limited)
    handle:clearRouteCache() -- the routes read what is set here
end
