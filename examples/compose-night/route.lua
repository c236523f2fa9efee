-- Forward each CT series to covct once nothing more of it has come for StableAge seconds; its own objects stay here.
function OnStableSeries(series, tags, metadata)
   if tags['Modality'] == 'CT' and metadata['RemoteAET'] ~= 'COVCT' then
      RestApiPost('/modalities/covct/store', '{"Resources": ["' .. series .. '"], "Asynchronous": true}')
   end
end
