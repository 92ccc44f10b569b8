/* Stands in for the NVIDIA driver's library where cuDNN builds plans without a GPU: whatever is asked for succeeds and does nothing. */
int cuDriverGetVersion(int *version) {
  *version = 13000;
  return 0;
}

#define NOTHING(name) \
  int name(void) { return 0; }
NOTHING(cuCtxGetCurrent)
NOTHING(cuCtxGetLimit)
NOTHING(cuCtxPopCurrent)
NOTHING(cuCtxPushCurrent)
NOTHING(cuDeviceGet)
NOTHING(cuDeviceGetCount)
NOTHING(cuKernelGetAttribute)
NOTHING(cuKernelSetAttribute)
NOTHING(cuLaunchCooperativeKernel)
NOTHING(cuLaunchKernel)
NOTHING(cuLaunchKernelEx)
NOTHING(cuLibraryLoadFromFile)
NOTHING(cuLibraryUnload)
NOTHING(cuLinkAddData)
NOTHING(cuLinkComplete)
NOTHING(cuLinkCreate)
NOTHING(cuLinkDestroy)
NOTHING(cuOccupancyMaxPotentialClusterSize)
NOTHING(cuStreamGetCtx)

#define HANDLE(name)       \
  int name(void **handle) { \
    *handle = (void *)16;  \
    return 0;              \
  }
HANDLE(cuLibraryLoadData)
HANDLE(cuLibraryGetKernel)

#define TEXT(name)                         \
  int name(int error, const char **text) { \
    (void)error;                           \
    *text = "";                            \
    return 0;                              \
  }
TEXT(cuGetErrorName)
TEXT(cuGetErrorString)
