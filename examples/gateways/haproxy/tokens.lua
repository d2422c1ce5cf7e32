-- Counts the tokens of each call and each session. It reads the answers as they pass, streamed or
-- not, and does not delay them.
--
-- Each thread has sums of its own, because HAProxy 2.6 crashes in filters that threads share.

local VARIABLES = {
    prompt_tokens = "txn.prompt_tokens", -- OpenAI
    completion_tokens = "txn.completion_tokens",
    input_tokens = "txn.prompt_tokens", -- Anthropic, and OpenAI's Responses
    output_tokens = "txn.completion_tokens",
    promptTokenCount = "txn.prompt_tokens", -- Google
    candidatesTokenCount = "txn.completion_tokens",
}
local OVERLAP = 64 -- characters: enough for a name and its number

-- The sums of each session, of today and of the day before. Older ones are dropped.
local sums, older = {}, {}

core.register_task(function()
    while true do
        core.sleep(24 * 60 * 60)
        sums, older = {}, sums
    end
end)

local function sum_of(key)
    return sums[key] or older[key] or 0
end

-- If the table has no entry of a session any more, forget its sum, too.
core.register_converters("tokens_of", function(key)
    if not core.backends.sessions.stktable:lookup(key) then
        sums[key], older[key] = nil, nil
    end
    return sum_of(key)
end)

local Tokens = { id = "tokens", flags = filter.FLT_CFG_FL_HTX }
Tokens.__index = Tokens

function Tokens:new()
    return setmetatable({ rest = "", found = {} }, Tokens)
end

function Tokens:http_headers(txn, message)
    local kind = message.channel:is_resp() and message:get_headers()["content-type"]
    if kind and (kind[0]:find("json", 1, true) or kind[0]:find("event-stream", 1, true)) then
        self.key = txn:get_var("txn.key")
        filter.register_data_filter(self, message.channel)
    end
    return filter.CONTINUE
end

-- The last number counts. A stream repeats the numbers as they grow, and the arguments of a tool,
-- which may have the same names, come before. In a text, quotes are escaped, so nothing matches.
function Tokens:http_payload(txn, message)
    local text = self.rest .. (message:body() or "")
    self.rest = text:sub(-OVERLAP)
    if not (text:find('tokens"', 1, true) or text:find('TokenCount"', 1, true)) then
        return
    end
    for name, digits in text:gmatch('"(%a[%a_]*)"%s*:%s*(%d+)%s*[,}]') do
        local variable = VARIABLES[name]
        if variable and #digits < 10 then
            local figure = tonumber(digits)
            sums[self.key] = sum_of(self.key) + figure - (self.found[variable] or 0)
            self.found[variable] = figure
            txn:set_var(variable, figure)
        end
    end
end

core.register_filter("tokens", Tokens, function(tokens)
    return tokens
end)
