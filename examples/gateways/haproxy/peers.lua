-- For several instances: in a new process, calls wait until it has the counts of the other
-- instances. Otherwise it would count from 1, and the others would take over that count.

local LONGEST = 10 -- seconds. Calls wait for so long if HAProxy's socket does not answer.
local started, has_counts, asking = core.now().sec, false, false

-- The last two bits of the flags are set when HAProxy has the counts, or has given up.
local function ask(address)
    local socket = core.tcp()
    local answer = socket:connect(address) and socket:send("show peers\n") and socket:receive("*a")
    socket:close()
    local flags = answer and answer:match("flags=0x%x*(%x)")
    return flags and tonumber(flags, 16) & 3 == 3
end

core.register_action("await_peers", { "http-req" }, function(_, address)
    while not has_counts and core.now().sec < started + LONGEST do
        if not asking then
            asking = true
            has_counts = ask(address)
            asking = false
        end
        core.msleep(20)
    end
end, 1)
