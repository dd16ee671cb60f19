-- The one rule that a PACS admin adds: every stable series of modality MG, MR or US goes to the AE `CASEWORK` (titled CMAN).
-- What that AE stored itself never goes back to it, and a series goes again only when it has grown. A series counts as sent
-- when all of it was taken: a sending that failed is tried again (Orthanc gives up after one try), and one that a restart of
-- Orthanc cut off, or a series that was not stable yet then, is found when it starts.
local WANTED = { MG = true, MR = true, US = true }

local function noted(resource)
   return ParseJson(RestApiGet(resource .. '/metadata?expand'))
end

local function send(seriesId)
   local series = ParseJson(RestApiGet('/series/' .. seriesId))
   local whole = noted('/series/' .. seriesId)['RoutedCount'] == tostring(#series['Instances'])
   if WANTED[series['MainDicomTags']['Modality']] and not whole and noted('/instances/' .. series['Instances'][1])['RemoteAET'] ~= 'CMAN' then
      RestApiPost('/modalities/CASEWORK/store', DumpJson({ Resources = { seriesId }, Asynchronous = true }, false))
   end
end

local function sending(jobId)
   local job = ParseJson(RestApiGet('/jobs/' .. jobId))
   return job['Type'] == 'DicomModalityStore' and job['Content']['RemoteAet'] == 'CMAN' and job['Content']
end

function Initialize()
   for _, seriesId in ipairs(ParseJson(RestApiGet('/series'))) do
      send(seriesId)
   end
end

function OnStableSeries(seriesId, tags, metadata, origin)
   send(seriesId)
end

function OnJobSuccess(jobId)
   local content = sending(jobId)
   if content then
      for _, seriesId in ipairs(content['ParentResources']) do
         RestApiPut('/series/' .. seriesId .. '/metadata/RoutedCount', tostring(content['InstancesCount']))
      end
   end
end

function OnJobFailure(jobId)
   if sending(jobId) then
      os.execute('sleep 3')
      RestApiPost('/jobs/' .. jobId .. '/resubmit', '')
   end
end
