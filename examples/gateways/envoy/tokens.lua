-- Counts the tokens of each call, for the audit. It reads the answers as they pass, streamed or
-- not, and does not delay them. counter.lua finds the figures.

require("counter")

-- The paths of calls that only count tokens, or that repeat what another call has spent. If you
-- change them, also change the acl spends_none in HAProxy's haproxy.cfg.
local FREE = {
    "^/v1/chat/completions/[%w_-]+$",
    "^/v1/messages/count_tokens$",
    "^/v1/responses/input_tokens$",
    "^/v1/responses/[%w_-]+/cancel$",
    "^/v1beta/models/[%w._-]+:countTokens$",
}

local function spends(headers)
    if not headers or headers:get(":method") ~= "POST" then
        return false -- Envoy has refused the call, or it is a GET of a stored answer
    end
    local path = headers:get(":path"):match("^[^?]*")
    for _, free in ipairs(FREE) do
        if path:find(free) then
            return false
        end
    end
    return true
end

function envoy_on_response(handle)
    local read = Counter.reader_of(handle:headers():get("content-type"))
    local has_failed = tonumber(handle:headers():get(":status")) >= 400
    if not read or has_failed or not spends(handle:requestHeaders()) then
        return
    end
    local counter = Counter.new()
    for piece in handle:bodyChunks() do
        read(counter, piece:getBytes(0, piece:length()))
        if next(counter.stated) or next(counter.more) then
            local audit = handle:streamInfo():dynamicMetadata()
            for name, figure in pairs(counter:figures()) do
                audit:set("tokens", name, figure)
            end
        end
    end
end
