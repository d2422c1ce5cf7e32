-- Counts the tokens that an answer states, streamed or not, while it passes. The recipes of HAProxy
-- and Envoy have the same file.

-- Where each provider states its tokens, in the order of OpenAI's chat completions, Anthropic,
-- OpenAI's responses and Gemini. The fields of one provider are added.
local FORMATS = {
    prompt_tokens = {
        { "prompt_tokens" },
        { "input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens" },
        { "promptTokenCount", "toolUsePromptTokenCount" },
    },
    completion_tokens = {
        { "completion_tokens" },
        { "output_tokens" },
        { "candidatesTokenCount", "thoughtsTokenCount" },
    },
    cached_tokens = {
        { "prompt_tokens_details.cached_tokens" },
        { "cache_read_input_tokens" },
        { "input_tokens_details.cached_tokens" },
        { "cachedContentTokenCount" },
    },
    cache_write_tokens = {
        { "prompt_tokens_details.cache_write_tokens" },
        { "cache_creation_input_tokens" },
        { "input_tokens_details.cache_write_tokens" },
    },
}
local LONGEST = 64 -- characters of a name or a number that are kept
local NO_NAME = (" "):rep(LONGEST) -- a text with a backslash names no field

-- The objects that hold these fields. A string is the path of a field. `each` is what a list holds.
local function fields_for(prefix)
    local object = {}
    for _, formats in pairs(FORMATS) do
        for _, fields in ipairs(formats) do
            for _, field in ipairs(fields) do
                local outer, inner = field:match("^(.*)%.(.*)$")
                if outer then
                    object[outer] = object[outer] or {}
                    object[outer][inner] = prefix .. field
                else
                    object[field] = prefix .. field
                end
            end
        end
    end
    return object
end

local EACH = "each call of the model: " -- how the sums of Anthropic's iterations are kept apart
local USAGE = fields_for("")
USAGE.iterations = { each = fields_for(EACH) }
local ANSWER = {
    usage = USAGE,
    usageMetadata = USAGE,
    message = { usage = USAGE }, -- Anthropic's message_start
    response = { usage = USAGE }, -- OpenAI's response.completed
}
local ANSWERS = { each = ANSWER } -- Gemini streams a list

-- Reads answers in pieces of any length. It keeps only where it is in the JSON, and the figures.
Counter = {} -- global, because HAProxy's Lua does not look for required files in this folder
Counter.__index = Counter

function Counter.new()
    local counter = setmetatable({ stated = {}, more = {}, skip = 0, start = "" }, Counter)
    counter:begin()
    return counter
end

-- Begin a document.
function Counter:begin()
    self.depth, self.within = 0, {} -- the objects and lists around, where they may have figures
    self.name, self.inner, self.number, self.text, self.skip = nil, nil, nil, nil, 0
end

-- An event's JSON is in its lines that start with "data:". A blank line ends the event.
function Counter:read_events(piece)
    local at = 1
    while at <= #piece do
        local stop = piece:find("\n", at, true)
        local line = piece:sub(at, stop and stop - 1)
        local missing = 5 - #self.start
        self.start = self.start .. line:sub(1, missing)
        if self.start == "data:" then
            self:read(line:sub(missing + 1))
        end
        if not stop then
            return
        end
        if self.start == "" or self.start == "\r" then
            self:begin()
        end
        self.start, at = "", stop + 1
    end
end

function Counter:read(piece)
    local at = 1 + self.skip
    while at <= #piece do
        if self.text then
            at = self:read_text(piece, at)
        else
            -- A list of a million numbers has a million commas. They don't matter in it.
            local marks = self.within[self.depth] and '[]["{},:]' or '[]["{}]'
            local stop = piece:find(marks, at)
            if self.number and #self.number < LONGEST then
                local more = piece:sub(at, stop and stop - 1):gsub("%s+", "")
                self.number = self.number .. more:sub(1, LONGEST)
            end
            if stop then
                self:pass(piece:sub(stop, stop))
            end
            at = (stop or #piece) + 1
        end
    end
    self.skip = at - 1 - #piece -- an escaped character may be in the next piece
end

function Counter:read_text(piece, at)
    local stop = piece:find('["\\]', at)
    if #self.text < LONGEST then
        local last = stop and stop - 1 or #piece
        self.text = self.text .. piece:sub(at, math.min(last, at + LONGEST))
    end
    if not stop then
        return #piece + 1
    end
    if piece:sub(stop, stop) == '"' then
        self.name, self.text = self.text, nil
        return stop + 1
    end
    self.text = NO_NAME
    return stop + 2
end

function Counter:pass(mark)
    if mark == '"' then
        self.text, self.number = "", nil
    elseif mark == ":" then
        self.inner = self.within[self.depth][self.name]
        self.number = type(self.inner) == "string" and "" or nil
    elseif mark == "{" or mark == "[" then
        self:enter(mark == "[")
    else
        self:take_number()
        if mark ~= "," then
            self:leave()
        end
    end
end

function Counter:enter(is_list)
    local around, inner = self.within[self.depth], self.inner
    if self.depth == 0 then
        inner = is_list and ANSWERS or ANSWER
    elseif around and around.each then
        inner = around.each
    end
    if type(inner) ~= "table" or (inner.each ~= nil) ~= is_list then
        inner = nil
    end
    if inner == USAGE then
        self.usage = {}
    end
    self.depth = self.depth + 1
    self.within[self.depth] = inner
    self.inner, self.number = nil, nil
end

function Counter:leave()
    if self.within[self.depth] == USAGE then
        self:take_usage()
    end
    self.within[self.depth] = nil
    self.depth = math.max(self.depth - 1, 0)
end

-- A number with ten digits is no number of tokens.
function Counter:take_number()
    local field = self.inner
    if self.number and #self.number < 10 and self.number:find("^%d+$") then
        local before = field:find(EACH, 1, true) and self.usage[field] or 0
        self.usage[field] = before + tonumber(self.number)
    end
    self.inner, self.number = nil, nil
end

-- The last figure of a field counts. The sum of the iterations replaces the figure beside them.
function Counter:take_usage()
    for _, formats in pairs(FORMATS) do
        for _, fields in ipairs(formats) do
            for _, field in ipairs(fields) do
                local figure, sum = self.usage[field], self.usage[EACH .. field]
                self.stated[field] = figure or self.stated[field]
                self.more[field] = sum and sum - (self.stated[field] or 0) or self.more[field]
            end
        end
    end
end

-- If an answer has the fields of several providers, the first one counts.
local function figure(counter, formats)
    for _, fields in ipairs(formats) do
        local sum, found = 0, false
        for _, field in ipairs(fields) do
            local stated, more = counter.stated[field], counter.more[field]
            sum, found = sum + (stated or 0) + (more or 0), found or stated or more
        end
        if found then
            return math.max(sum, 0)
        end
    end
    return 0
end

-- Return the numbers of tokens so far, by the names that they have in the audit.
function Counter:figures()
    local figures = {}
    for name, formats in pairs(FORMATS) do
        figures[name] = figure(self, formats)
    end
    return figures
end

-- Return the method that reads answers of this content type, or nothing.
function Counter.reader_of(content_type)
    local kind = (content_type or ""):lower()
    return kind:find("event-stream", 1, true) and Counter.read_events
        or kind:find("json", 1, true) and Counter.read
end
