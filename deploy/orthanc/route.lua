-- The one rule that a PACS admin adds: every stable series of modality MG, MR or US goes to the AE `CASEWORK` (titled CMAN).
-- What that AE stored itself never goes back to it, and a series goes again only when it has grown.
local WANTED = { MG = true, MR = true, US = true }

local function ours(instance)
   local known, sender = pcall(RestApiGet, '/instances/' .. instance .. '/metadata/RemoteAET')
   return known and sender == 'CMAN'
end

function OnStableSeries(seriesId, tags, metadata, origin)
   local series = ParseJson(RestApiGet('/series/' .. seriesId))
   local count = tostring(#series['Instances'])
   if not WANTED[series['MainDicomTags']['Modality']] or metadata['RoutedCount'] == count or ours(series['Instances'][1]) then
      return
   end
   RestApiPut('/series/' .. seriesId .. '/metadata/RoutedCount', count)
   RestApiPost('/modalities/CASEWORK/store', DumpJson({ Resources = { seriesId }, Asynchronous = true, Permissive = true }, false))
end
