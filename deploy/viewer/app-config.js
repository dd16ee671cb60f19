// OHIF 3.13 over Orthanc's DICOMweb, same origin.

// OHIF 3.13.2 reads only the first letter of VOI LUT Function (0028,1056) and then shows nothing of such an image: it is
// given the value under the other name that its loader knows.
const wholeWindowFunction = {
  id: 'casework.voi-lut-function',
  onModeEnter() {
    const { metaData } = window.cornerstone || {};
    if (!metaData || this.added) return;
    this.added = true;
    let asking = false;
    metaData.addProvider((kind, image) => {
      if (kind !== 'voiLutModule' || asking) return undefined;
      asking = true;
      const found = metaData.get(kind, image);
      asking = false;
      return typeof found?.voiLUTFunction === 'string' ? { ...found, voiLUTFunction: undefined, voiLutFunction: found.voiLUTFunction } : found;
    }, 100000);
  },
};

// OHIF 3.13.2 makes a volume of an MRI with all phases in one series, and then of whatever is opened next in that viewport. Heat-maps
// are pictures without a place in space: as a volume they stay black ("Error compiling shader"). Such pictures say here what they are.
const picturesAreStacks = {
  id: 'casework.pictures-are-stacks',
  onModeEnter({ servicesManager }) {
    const { displaySetService } = servicesManager.services;
    const tell = sets => sets.filter(set => set.SOPClassHandlerId?.endsWith('.stack') && !set.isReconstructable).forEach(set => { set.viewportType ??= 'stack'; });
    this.heard?.unsubscribe();
    this.heard = displaySetService.subscribe(displaySetService.EVENTS.DISPLAY_SETS_ADDED, ({ displaySetsAdded }) => tell(displaySetsAdded));
    tell(displaySetService.getActiveDisplaySets());
  },
};

window.config = {
  routerBasename: '/',
  extensions: [wholeWindowFunction, picturesAreStacks],
  modes: [],
  showStudyList: true,
  investigationalUseDialog: { option: 'always' },
  defaultDataSourceName: 'dicomweb',
  dataSources: [
    {
      namespace: '@ohif/extension-default.dataSourcesModule.dicomweb',
      sourceName: 'dicomweb',
      configuration: {
        friendlyName: 'PACS',
        name: 'pacs',
        qidoRoot: location.origin + '/dicom-web',
        wadoRoot: location.origin + '/dicom-web',
        qidoSupportsIncludeField: true,
        supportsFuzzyMatching: false,
        supportsWildcard: true,
        supportsReject: false,
        dicomUploadEnabled: false,
        imageRendering: 'wadors',
        thumbnailRendering: 'wadors', // this Orthanc has no /thumbnail
        enableStudyLazyLoad: true,
        omitQuotationForMultipartRequest: true,
        bulkDataURI: { enabled: true },
      },
    },
  ],
};
