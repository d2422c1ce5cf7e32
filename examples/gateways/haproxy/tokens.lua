-- Counts the tokens of each call and each session. It reads the answers as they pass, streamed or
-- not, and does not delay them. counter.lua, which haproxy.cfg loads first, finds the figures.

local address -- of the frontend that adds to the table of tokens

local function spend(bucket, tokens)
    local socket = core.tcp()
    assert(socket:connect(address))
    assert(socket:send(string.pack("s1", ("%s=%d"):format(bucket, tokens))))
    socket:receive("*a") -- until it has added them
    socket:close()
end

local Tokens = { id = "tokens", flags = filter.FLT_CFG_FL_HTX }
Tokens.__index = Tokens

function Tokens:new()
    return setmetatable({ counter = Counter.new() }, Tokens)
end

function Tokens:http_headers(txn, message)
    if not (message.channel:is_resp() and txn:get_var("txn.spends")) then
        return
    end
    local kind = message:get_headers()["content-type"]
    self.read = Counter.reader_of(kind and kind[0])
    local has_failed = tonumber(message:get_stline().code) >= 400 -- then it costs nothing
    if self.read and not has_failed then
        filter.register_data_filter(self, message.channel)
    end
end

function Tokens:http_payload(_, message)
    local piece = message:body()
    if piece then
        self.read(self.counter, piece)
        return #piece
    end
end

-- HAProxy also calls this if the client or the provider has hung up. A call without tokens is sent,
-- too, so that its session's tokens are kept for another day.
function Tokens:end_analyze(txn, channel)
    local bucket = channel:is_resp() and txn:get_var("txn.spender")
    if not bucket then
        return
    end
    local figures = self.counter:figures()
    for name, figure in pairs(figures) do
        txn:set_var("txn." .. name, figure)
    end
    core.register_task(function()
        spend(bucket, figures.prompt_tokens + figures.completion_tokens)
    end)
end

core.register_filter("tokens", Tokens, function(tokens, arguments)
    address = arguments[1]
    return tokens
end)
