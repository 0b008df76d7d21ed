/* A libcuda for tests: hands out memory of the host, runs copies at once, keeps a log of calls in STUB_CUDA_LOG, and
   fails as STUB_CUDA_FAIL says: "function=code" with commas between. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <dlfcn.h>

typedef int result;
static int live_memory, live_pinned, live_streams, live_events, live_modules, live_graphs, retained, capturing;
static uint64_t next_handle = 0x1000, ticks;
static const char* current_kernel;

static int step(const char* name) {
    const char* log = getenv("STUB_CUDA_LOG");
    if (log) {
        FILE* file = fopen(log, "a");
        if (file) {
            fprintf(file, "%s\n", name);
            fclose(file);
        }
    }
    const char* at = getenv("STUB_CUDA_FAIL");
    size_t length = strlen(name);
    while (at && *at) {
        if (strncmp(at, name, length) == 0 && at[length] == '=') return atoi(at + length + 1);
        at = strchr(at, ',');
        if (at) at++;
    }
    return 0;
}
#define STEP(name)                       \
    do {                                 \
        int code_ = step(name);          \
        if (code_) return code_;         \
    } while (0)

int stub_cuda_live(int what) {
    int values[] = {live_memory, live_pinned, live_streams, live_events, live_modules, live_graphs, retained};
    return values[what];
}
static int number(const char* name, int otherwise) {
    const char* text = getenv(name);
    return text ? atoi(text) : otherwise;
}

result cuInit(unsigned flags) { STEP("cuInit"); return number("STUB_CUDA_DEVICES", 1) ? 0 : 100; }
result cuDriverGetVersion(int* version) { STEP("cuDriverGetVersion"); *version = 12060; return 0; }
result cuDeviceGetCount(int* count) { STEP("cuDeviceGetCount"); *count = number("STUB_CUDA_DEVICES", 1); return 0; }
result cuDeviceGet(int* device, int ordinal) { STEP("cuDeviceGet"); *device = ordinal; return 0; }
result cuDeviceGetName(char* name, int size, int device) { snprintf(name, (size_t)size, "Stub GPU"); return 0; }
result cuDeviceGetAttribute(int* value, int which, int device) {
    STEP("cuDeviceGetAttribute");
    *value = which == 75 ? 8 : which == 76 ? 7 : 0;
    return 0;
}
result cuDevicePrimaryCtxRetain(void** context, int device) {
    STEP("cuDevicePrimaryCtxRetain");
    retained++;
    *context = (void*)0xC0;
    return 0;
}
result cuDevicePrimaryCtxRelease_v2(int device) { STEP("cuDevicePrimaryCtxRelease"); retained--; return 0; }
result cuCtxSetCurrent(void* context) { STEP("cuCtxSetCurrent"); return context == (void*)0xC0 ? 0 : 201; }
result cuMemGetInfo_v2(size_t* free_, size_t* total) {
    STEP("cuMemGetInfo");
    *free_ = (size_t)512 << 20;
    *total = (size_t)1024 << 20;
    return 0;
}
result cuMemAlloc_v2(uint64_t* pointer, size_t size) {
    STEP("cuMemAlloc");
    if (size > (size_t)512 << 20) return 2;
    *pointer = (uint64_t)(uintptr_t)malloc(size);
    live_memory++;
    return 0;
}
result cuMemFree_v2(uint64_t pointer) { STEP("cuMemFree"); free((void*)(uintptr_t)pointer); live_memory--; return 0; }
result cuMemHostAlloc(void** pointer, size_t size, unsigned flags) {
    STEP("cuMemHostAlloc");
    *pointer = malloc(size);
    live_pinned++;
    return 0;
}
result cuMemFreeHost(void* pointer) { STEP("cuMemFreeHost"); free(pointer); live_pinned--; return 0; }
result cuMemcpyHtoDAsync_v2(uint64_t target, const void* source, size_t size, void* stream) {
    STEP("cuMemcpyHtoDAsync");
    memcpy((void*)(uintptr_t)target, source, size);
    return 0;
}
result cuMemcpyDtoHAsync_v2(void* target, uint64_t source, size_t size, void* stream) {
    STEP("cuMemcpyDtoHAsync");
    memcpy(target, (void*)(uintptr_t)source, size);
    return 0;
}
result cuStreamCreate(void** stream, unsigned flags) {
    STEP("cuStreamCreate");
    *stream = (void*)(uintptr_t)(next_handle++);
    live_streams++;
    return 0;
}
result cuStreamSynchronize(void* stream) { STEP("cuStreamSynchronize"); return 0; }
result cuStreamDestroy_v2(void* stream) { STEP("cuStreamDestroy"); live_streams--; return 0; }
result cuEventCreate(void** event, unsigned flags) {
    STEP("cuEventCreate");
    *event = calloc(1, sizeof(uint64_t));
    live_events++;
    return 0;
}
result cuEventRecord(void* event, void* stream) { STEP("cuEventRecord"); *(uint64_t*)event = ++ticks; return 0; }
result cuEventSynchronize(void* event) { STEP("cuEventSynchronize"); return 0; }
result cuEventElapsedTime(float* ms, void* start, void* end) {
    STEP("cuEventElapsedTime");
    *ms = (float)(*(uint64_t*)end - *(uint64_t*)start);
    return 0;
}
result cuEventDestroy_v2(void* event) { STEP("cuEventDestroy"); free(event); live_events--; return 0; }
result cuModuleLoadData(void** module, const void* image) {
    STEP("cuModuleLoadData");
    if (strncmp(image, ".version", 8) != 0) return 200;
    *module = (void*)(uintptr_t)(next_handle++);
    live_modules++;
    return 0;
}
result cuModuleGetFunction(void** function, void* module, const char* name) {
    STEP("cuModuleGetFunction");
    if (strcmp(name, "scale") != 0) return 500;
    current_kernel = "scale";
    *function = (void*)&current_kernel;
    return 0;
}
result cuModuleUnload(void* module) { STEP("cuModuleUnload"); live_modules--; return 0; }
/* The one kernel: scale(float* values, float factor, int count). */
result cuLaunchKernel(void* function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                      unsigned shared, void* stream, void** parameters, void** extra) {
    STEP("cuLaunchKernel");
    if ((uint64_t)bx * by * bz > 1024) return 701;
    float* values = *(float**)parameters[0];
    float factor = *(float*)parameters[1];
    int count = *(int*)parameters[2];
    int threads = (int)(gx * gy * gz * bx * by * bz);
    for (int i = 0; i < count && i < threads; i++) values[i] *= factor;
    return 0;
}
result cuStreamBeginCapture_v2(void* stream, int mode) { STEP("cuStreamBeginCapture"); capturing = 1; return 0; }
result cuStreamEndCapture(void* stream, void** graph) {
    STEP("cuStreamEndCapture");
    capturing = 0;
    *graph = (void*)(uintptr_t)(next_handle++);
    live_graphs++;
    return 0;
}
result cuGraphInstantiateWithFlags(void** executable, void* graph, unsigned long long flags) {
    STEP("cuGraphInstantiate");
    *executable = (void*)(uintptr_t)(next_handle++);
    live_graphs++;
    return 0;
}
result cuGraphInstantiate(void** executable, void* graph, unsigned long long flags) {
    return cuGraphInstantiateWithFlags(executable, graph, flags);
}
result cuGraphLaunch(void* executable, void* stream) { STEP("cuGraphLaunch"); return 0; }
result cuGraphDestroy(void* graph) { STEP("cuGraphDestroy"); live_graphs--; return 0; }
result cuGraphExecDestroy(void* executable) { STEP("cuGraphExecDestroy"); live_graphs--; return 0; }

/* cuda-python asks for every function by name here. */
result cuGetProcAddress_v2(const char* name, void** function, int version, uint64_t flags, void* status) {
    char versioned[128];
    snprintf(versioned, sizeof versioned, "%s_v2", name);
    *function = dlsym(RTLD_DEFAULT, versioned);
    if (!*function) *function = dlsym(RTLD_DEFAULT, name);
    return 0;
}
result cuGetProcAddress(const char* name, void** function, int version, uint64_t flags) {
    return cuGetProcAddress_v2(name, function, version, flags, 0);
}
