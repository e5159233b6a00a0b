-- Requests in one write, as many as the argument says.
function init(args)
   local requests = {}
   for i = 1, tonumber(args[1]) do
      requests[i] = wrk.format("GET", nil)
   end
   batch = table.concat(requests)
end

function request()
   return batch
end
