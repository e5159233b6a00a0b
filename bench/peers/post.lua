-- A POST with a body of as many bytes as the argument says.
function init(args)
   local body = string.rep("x", tonumber(args[1]))
   post = wrk.format("POST", nil, nil, body)
end

function request()
   return post
end
