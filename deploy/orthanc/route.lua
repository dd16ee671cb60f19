-- The one rule that a PACS admin adds: every stable series of modality MG, MR or US goes to the AE `CASEWORK` (titled CMAN).
-- What that AE stored itself never goes back to it, and a series goes again only when it has grown. A sending that failed is
-- tried again (Orthanc gives up after one try; a clinical PACS repeats by itself).
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

function OnJobFailure(jobId)
   local job = ParseJson(RestApiGet('/jobs/' .. jobId))
   if job['Type'] == 'DicomModalityStore' and job['Content']['RemoteAet'] == 'CMAN' then
      os.execute('sleep 3')
      RestApiPost('/jobs/' .. jobId .. '/resubmit', '')
   end
end
