/* A libcuda.so.1 without a GPU, for the real cuda-bindings and the real pycuda.

   It implements the functions of the driver that udx calls, with the driver's own signatures and states:

   - a context stack for each thread, and a primary context that is counted and dies with its last reference;
   - device memory is malloc'ed and filled with 0xA5; a copy that touches anything else is a violation;
   - work on a stream runs when somebody waits for the stream, and not before; a capturing stream only records;
   - asynchronous copies need page-locked host memory;
   - a launch must have the block that the image requires, and is recorded with its parameters, whose number and sizes
     are read from the PTX or from the cubin. Kernels compute nothing, but for fake_copy(source, bytes, target).

   The GPU has compute capability 8.9, or UDX_FAKE_CAPABILITY (times ten).

   fake_report() writes what is held, what was launched and what was wrong as JSON.
   fake_fail(function, n, status) lets the n-th call of a function from now on fail. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <elf.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef int Result;
typedef uint64_t Address;

enum {
    SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NOT_INITIALIZED = 3, INVALID_DEVICE = 101, INVALID_IMAGE = 200,
    INVALID_CONTEXT = 201, NO_BINARY_FOR_GPU = 209, INVALID_HANDLE = 400, NOT_FOUND = 500, ILLEGAL_ADDRESS = 700,
    LAUNCH_FAILED = 719, CAPTURE_UNSUPPORTED = 900, CAPTURE_INVALIDATED = 901, UNKNOWN = 999
};

enum { CONTEXT = 0x7001, STREAM, EVENT, BLOCK, LOCKED, MODULE, FUNCTION, GRAPH, EXECUTABLE };
enum { COPY, FILL, LAUNCH, RECORD };

#define MAX_PARAMETERS 32
#define MAX_DEPTH 64
#define TOTAL_BYTES (1ull << 30)

typedef struct Object Object;

typedef struct {
    int kind;
    void *to, *from;
    size_t bytes;
    unsigned char value;
    Object *function, *event;
    unsigned grid[3], block[3], shared;
    unsigned char parameters[MAX_PARAMETERS * 8];
} Operation;

struct Object {
    int kind;
    Object *next;
    /* memory */
    unsigned char *memory;
    size_t bytes;
    /* stream, graph, executable */
    Operation *operations;
    int count, capturing;
    /* event */
    int recorded;
    /* function */
    char name[256];
    int parameters, sizes[MAX_PARAMETERS], offsets[MAX_PARAMETERS];
    unsigned required_block, shared_limit;
    Object *module;
    int references;
};

/* Compute capability times ten. */
static int capability(void) {
    const char *given = getenv("UDX_FAKE_CAPABILITY");
    return given ? atoi(given) : 89;
}

static Object *objects = NULL;
static Object primary = {.kind = CONTEXT};
static int retained = 0, initialized = 0, clock_ticks = 0;
static size_t used_bytes = 0;
static __thread Object *stack[MAX_DEPTH];
static __thread int depth = 0;

static char violations[1 << 16], launches[1 << 20], calls[1 << 18];
static char report[(1 << 20) + (1 << 19)];
static char fail_function[64];
static int fail_countdown = 0, fail_status = 0;

static void append(char *text, size_t size, const char *format, ...) {
    size_t length = strlen(text);
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text + length, size - length, format, arguments);
    va_end(arguments);
}

#define VIOLATION(...) (append(violations, sizeof violations, "%s\"", *violations ? ", " : ""), \
                        append(violations, sizeof violations, __VA_ARGS__), \
                        append(violations, sizeof violations, "\""))

/* Note a call; give the failure that was asked for. */
static Result entered(const char *function) {
    append(calls, sizeof calls, "%s\"%s\"", *calls ? ", " : "", function);
    if (fail_countdown > 0 && strcmp(function, fail_function) == 0 && --fail_countdown == 0) return fail_status;
    if (!initialized && strcmp(function, "cuInit")) return NOT_INITIALIZED;
    return SUCCESS;
}

#define ENTER(name) do { Result failure = entered(name); if (failure) return failure; } while (0)
#define ENTER_CONTEXT(name) do { ENTER(name); \
    if (!depth || !stack[depth - 1]) { VIOLATION("%s without a context", name); return INVALID_CONTEXT; } \
    if (!retained) { VIOLATION("%s in a context that is destroyed", name); return INVALID_CONTEXT; } } while (0)

static Object *make(int kind) {
    Object *object = calloc(1, sizeof *object);
    object->kind = kind;
    object->next = objects;
    return objects = object;
}

static int alive(const void *pointer, int kind) {
    for (Object *object = objects; object; object = object->next)
        if (object == pointer) return object->kind == kind;
    return 0;
}

static void unmake(Object *object) {
    for (Object **link = &objects; *link; link = &(*link)->next)
        if (*link == object) {
            *link = object->next;
            free(object->memory);
            free(object->operations);
            free(object);
            return;
        }
}

#define REQUIRE(pointer, kind, function) do { if (!alive(pointer, kind)) { \
    VIOLATION("%s of what is not there", function); return INVALID_HANDLE; } } while (0)

static Object *holder(int kind, const void *pointer, size_t bytes) {
    const unsigned char *address = pointer;
    for (Object *object = objects; object; object = object->next)
        if (object->kind == kind && object->memory <= address && address + bytes <= object->memory + object->bytes)
            return object;
    return NULL;
}

static int count_of(int kind) {
    int count = 0;
    for (Object *object = objects; object; object = object->next) count += object->kind == kind;
    return count;
}

/* -- the driver and its device -- */

Result cuInit(unsigned flags) {
    Result failure = entered("cuInit");
    if (failure) return failure;
    if (flags) return INVALID_VALUE;
    initialized = 1;
    return SUCCESS;
}

Result cuDriverGetVersion(int *version) { *version = 13000; return SUCCESS; }

Result cuGetErrorString(Result error, const char **text) {
    switch (error) {
    case SUCCESS: *text = "no error"; break;
    case INVALID_VALUE: *text = "invalid argument"; break;
    case OUT_OF_MEMORY: *text = "out of memory"; break;
    case NOT_INITIALIZED: *text = "initialization error"; break;
    case INVALID_DEVICE: *text = "invalid device ordinal"; break;
    case INVALID_IMAGE: *text = "device kernel image is invalid"; break;
    case INVALID_CONTEXT: *text = "invalid device context"; break;
    case NO_BINARY_FOR_GPU: *text = "no kernel image is available for execution on the device"; break;
    case INVALID_HANDLE: *text = "invalid resource handle"; break;
    case NOT_FOUND: *text = "named symbol not found"; break;
    case ILLEGAL_ADDRESS: *text = "an illegal memory access was encountered"; break;
    case LAUNCH_FAILED: *text = "unspecified launch failure"; break;
    case CAPTURE_UNSUPPORTED: *text = "operation not permitted when stream is capturing"; break;
    case CAPTURE_INVALIDATED: *text = "operation failed due to a previous error during capture"; break;
    case UNKNOWN: *text = "unknown error"; break;
    default: *text = NULL; return INVALID_VALUE;
    }
    return SUCCESS;
}

Result cuGetErrorName(Result error, const char **text) { *text = error ? "CUDA_ERROR" : "CUDA_SUCCESS"; return SUCCESS; }

Result cuDeviceGetCount(int *count) { ENTER("cuDeviceGetCount"); *count = 1; return SUCCESS; }

Result cuDeviceGet(int *device, int index) {
    ENTER("cuDeviceGet");
    *device = 0;
    return index ? INVALID_DEVICE : SUCCESS;
}

Result cuDeviceGetName(char *name, int size, int device) {
    (void)device;
    ENTER("cuDeviceGetName");
    snprintf(name, size, "Fake GPU");
    return SUCCESS;
}

Result cuDeviceTotalMem_v2(size_t *bytes, int device) { (void)device; *bytes = TOTAL_BYTES; return SUCCESS; }

Result cuDeviceGetUuid_v2(unsigned char *uuid, int device) { memset(uuid, 7 + device, 16); return SUCCESS; }

Result cuDeviceGetAttribute(int *value, int attribute, int device) {
    (void)device;
    ENTER("cuDeviceGetAttribute");
    *value = attribute == 75 ? capability() / 10 : attribute == 76 ? capability() % 10 : attribute == 16 ? 58 : 1;
    return SUCCESS;
}

Result cuDeviceComputeCapability(int *major, int *minor, int device) {
    (void)device;
    *major = capability() / 10;
    *minor = capability() % 10;
    return SUCCESS;
}

/* -- contexts -- */

Result cuDevicePrimaryCtxRetain(Object **context, int device) {
    ENTER("cuDevicePrimaryCtxRetain");
    if (device) return INVALID_DEVICE;
    retained++;
    *context = &primary;
    return SUCCESS;
}

Result cuDevicePrimaryCtxRelease_v2(int device) {
    (void)device;
    ENTER("cuDevicePrimaryCtxRelease");
    if (!retained) { VIOLATION("cuDevicePrimaryCtxRelease once too often"); return INVALID_CONTEXT; }
    if (--retained == 0)
        for (Object *object = objects, *next; object; object = next) {
            next = object->next;
            if (object->kind != FUNCTION) VIOLATION("an object of kind %x outlived its context", object->kind);
            unmake(object);
        }
    return SUCCESS;
}

Result cuCtxPushCurrent_v2(Object *context) {
    ENTER("cuCtxPushCurrent");
    if (context != &primary || !retained || depth == MAX_DEPTH) return INVALID_CONTEXT;
    stack[depth++] = context;
    return SUCCESS;
}

Result cuCtxPopCurrent_v2(Object **context) {
    ENTER("cuCtxPopCurrent");
    if (!depth) { VIOLATION("cuCtxPopCurrent from an empty stack"); return INVALID_CONTEXT; }
    Object *popped = stack[--depth];
    if (context) *context = popped;
    return SUCCESS;
}

Result cuCtxGetCurrent(Object **context) { *context = depth ? stack[depth - 1] : NULL; return SUCCESS; }

Result cuCtxGetDevice(int *device) { ENTER_CONTEXT("cuCtxGetDevice"); *device = 0; return SUCCESS; }

static Result run_all(Object *stream);

Result cuCtxSynchronize(void) {
    ENTER_CONTEXT("cuCtxSynchronize");
    for (Object *object = objects; object; object = object->next)
        if (object->kind == STREAM && !object->capturing) {
            Result failure = run_all(object);
            if (failure) return failure;
        }
    return SUCCESS;
}

/* -- memory -- */

Result cuMemGetInfo_v2(size_t *free_bytes, size_t *total) {
    ENTER_CONTEXT("cuMemGetInfo");
    *free_bytes = TOTAL_BYTES - used_bytes;
    *total = TOTAL_BYTES;
    return SUCCESS;
}

Result cuMemAlloc_v2(Address *address, size_t bytes) {
    ENTER_CONTEXT("cuMemAlloc");
    if (!bytes) return INVALID_VALUE;
    if (bytes > TOTAL_BYTES - used_bytes) return OUT_OF_MEMORY;
    void *memory;
    if (posix_memalign(&memory, 512, bytes)) return OUT_OF_MEMORY;
    Object *block = make(BLOCK);
    block->memory = memset(memory, 0xA5, bytes);
    block->bytes = bytes;
    used_bytes += bytes;
    *address = (Address)(uintptr_t)memory;
    return SUCCESS;
}

static Result freed(const void *pointer, int kind, const char *function) {
    Object *block = pointer ? holder(kind, pointer, 0) : NULL;
    if (!block || block->memory != pointer) { VIOLATION("%s of what is not there", function); return INVALID_VALUE; }
    if (kind == BLOCK) used_bytes -= block->bytes;
    unmake(block);
    return SUCCESS;
}

Result cuMemFree_v2(Address address) {
    ENTER_CONTEXT("cuMemFree");
    return freed((void *)(uintptr_t)address, BLOCK, "cuMemFree");
}

Result cuMemHostAlloc(void **pointer, size_t bytes, unsigned flags) {
    ENTER_CONTEXT("cuMemHostAlloc");
    if (!bytes || flags) return INVALID_VALUE;
    if (posix_memalign(pointer, 4096, bytes)) return OUT_OF_MEMORY;
    Object *block = make(LOCKED);
    block->memory = memset(*pointer, 0x5A, bytes);
    block->bytes = bytes;
    return SUCCESS;
}

Result cuMemFreeHost(void *pointer) {
    ENTER_CONTEXT("cuMemFreeHost");
    return freed(pointer, LOCKED, "cuMemFreeHost");
}

/* -- streams: operations, recorded and run -- */

static Result run(const Operation *operation) {
    Object *device;
    switch (operation->kind) {
    case COPY:
        if (!holder(BLOCK, operation->to, operation->bytes) && !holder(BLOCK, operation->from, operation->bytes)) {
            VIOLATION("a copy from or to what is no device memory (any more)");
            return ILLEGAL_ADDRESS;
        }
        if (!holder(LOCKED, operation->to, operation->bytes) && !holder(LOCKED, operation->from, operation->bytes)) {
            VIOLATION("an asynchronous copy from or to what is not page-locked");
            return ILLEGAL_ADDRESS;
        }
        memcpy(operation->to, operation->from, operation->bytes);
        return SUCCESS;
    case FILL:
        device = holder(BLOCK, operation->to, operation->bytes);
        if (!device) { VIOLATION("a fill of what is no device memory (any more)"); return ILLEGAL_ADDRESS; }
        memset(operation->to, operation->value, operation->bytes);
        return SUCCESS;
    case RECORD:
        if (!alive(operation->event, EVENT)) { VIOLATION("an event that is destroyed"); return INVALID_HANDLE; }
        operation->event->recorded = ++clock_ticks;
        return SUCCESS;
    }
    const Object *function = operation->function;
    if (!alive(function, FUNCTION) || !alive(function->module, MODULE)) {
        VIOLATION("a launch of a kernel whose module is unloaded");
        return INVALID_HANDLE;
    }
    append(launches, sizeof launches, "%s{\"kernel\": \"%s\", \"grid\": [%u, %u, %u], \"block\": [%u, %u, %u], \"shared\": %u, ",
           *launches ? ", " : "", function->name, operation->grid[0], operation->grid[1], operation->grid[2],
           operation->block[0], operation->block[1], operation->block[2], operation->shared);
    append(launches, sizeof launches, "\"arguments\": [");
    for (int index = 0; index < function->parameters; index++) {
        long long value = 0;
        if (function->sizes[index] == 4) value = *(const int32_t *)(operation->parameters + function->offsets[index]);
        else value = *(const int64_t *)(operation->parameters + function->offsets[index]);
        append(launches, sizeof launches, "%s%lld", index ? ", " : "", value);
        if (function->sizes[index] == 8 && !holder(BLOCK, (void *)(uintptr_t)value, 0)) {
            VIOLATION("%s gets a pointer to what is no device memory", function->name);
            append(launches, sizeof launches, "]}");
            return ILLEGAL_ADDRESS;
        }
    }
    append(launches, sizeof launches, "]}");
    if (strcmp(function->name, "fake_copy") == 0) {
        void *from = *(void *const *)(operation->parameters), *to = *(void *const *)(operation->parameters + 16);
        int32_t bytes = *(const int32_t *)(operation->parameters + 8);
        if (!holder(BLOCK, from, bytes) || !holder(BLOCK, to, bytes)) return ILLEGAL_ADDRESS;
        memcpy(to, from, bytes);
    }
    return SUCCESS;
}

static void enqueue(Object *stream, const Operation *operation) {
    stream->operations = realloc(stream->operations, (stream->count + 1) * sizeof *operation);
    stream->operations[stream->count++] = *operation;
}

static Result run_all(Object *stream) {
    Result failure = SUCCESS;
    for (int index = 0; index < stream->count && !failure; index++) failure = run(&stream->operations[index]);
    stream->count = 0;
    return failure;
}

Result cuStreamCreate(Object **stream, unsigned flags) {
    ENTER_CONTEXT("cuStreamCreate");
    if (flags != 1) VIOLATION("a stream that waits for others' work on the default stream");
    *stream = make(STREAM);
    return SUCCESS;
}

Result cuStreamDestroy_v2(Object *stream) {
    ENTER_CONTEXT("cuStreamDestroy");
    REQUIRE(stream, STREAM, "cuStreamDestroy");
    if (stream->count) VIOLATION("a stream is destroyed with work in it");
    unmake(stream);
    return SUCCESS;
}

Result cuStreamSynchronize(Object *stream) {
    ENTER_CONTEXT("cuStreamSynchronize");
    REQUIRE(stream, STREAM, "cuStreamSynchronize");
    if (stream->capturing) return CAPTURE_UNSUPPORTED;
    return run_all(stream);
}

Result cuMemsetD8_v2(Address address, unsigned char value, size_t bytes) {
    ENTER_CONTEXT("cuMemsetD8");
    Operation operation = {.kind = FILL, .to = (void *)(uintptr_t)address, .value = value, .bytes = bytes};
    return run(&operation);
}

Result cuMemsetD8Async(Address address, unsigned char value, size_t bytes, Object *stream) {
    ENTER_CONTEXT("cuMemsetD8Async");
    REQUIRE(stream, STREAM, "cuMemsetD8Async");
    Operation operation = {.kind = FILL, .to = (void *)(uintptr_t)address, .value = value, .bytes = bytes};
    enqueue(stream, &operation);
    return SUCCESS;
}

Result cuMemcpyHtoDAsync_v2(Address to, const void *from, size_t bytes, Object *stream) {
    ENTER_CONTEXT("cuMemcpyHtoDAsync");
    REQUIRE(stream, STREAM, "cuMemcpyHtoDAsync");
    Operation operation = {.kind = COPY, .to = (void *)(uintptr_t)to, .from = (void *)from, .bytes = bytes};
    enqueue(stream, &operation);
    return SUCCESS;
}

Result cuMemcpyDtoHAsync_v2(void *to, Address from, size_t bytes, Object *stream) {
    ENTER_CONTEXT("cuMemcpyDtoHAsync");
    REQUIRE(stream, STREAM, "cuMemcpyDtoHAsync");
    Operation operation = {.kind = COPY, .to = to, .from = (void *)(uintptr_t)from, .bytes = bytes};
    enqueue(stream, &operation);
    return SUCCESS;
}

/* -- events -- */

Result cuEventCreate(Object **event, unsigned flags) {
    ENTER_CONTEXT("cuEventCreate");
    if (flags) VIOLATION("an event with flags %u", flags);
    *event = make(EVENT);
    return SUCCESS;
}

Result cuEventDestroy_v2(Object *event) {
    ENTER_CONTEXT("cuEventDestroy");
    REQUIRE(event, EVENT, "cuEventDestroy");
    unmake(event);
    return SUCCESS;
}

static Result record(Object *event, Object *stream, unsigned flags, const char *function) {
    REQUIRE(event, EVENT, function);
    REQUIRE(stream, STREAM, function);
    /* Without EXTERNAL a captured event only orders what is captured: its time cannot be read. */
    if (stream->capturing && flags != 1) VIOLATION("an event whose time cannot be read is captured");
    if (!stream->capturing && flags) { VIOLATION("an external event outside of a capture"); return INVALID_VALUE; }
    Operation operation = {.kind = RECORD, .event = event};
    enqueue(stream, &operation);
    return SUCCESS;
}

Result cuEventRecord(Object *event, Object *stream) {
    ENTER_CONTEXT("cuEventRecord");
    return record(event, stream, 0, "cuEventRecord");
}

Result cuEventRecordWithFlags(Object *event, Object *stream, unsigned flags) {
    ENTER_CONTEXT("cuEventRecordWithFlags");
    return record(event, stream, flags, "cuEventRecordWithFlags");
}

Result cuEventElapsedTime(float *milliseconds, Object *start, Object *end) {
    ENTER_CONTEXT("cuEventElapsedTime");
    REQUIRE(start, EVENT, "cuEventElapsedTime");
    REQUIRE(end, EVENT, "cuEventElapsedTime");
    if (!start->recorded || !end->recorded) return INVALID_HANDLE;
    *milliseconds = (float)(end->recorded - start->recorded);
    return SUCCESS;
}

Result cuEventElapsedTime_v2(float *milliseconds, Object *start, Object *end) {
    return cuEventElapsedTime(milliseconds, start, end);
}

/* -- images: parameters of PTX and cubins -- */

static Object *add_function(Object *module, const char *name, size_t length) {
    Object *function = make(FUNCTION);
    function->module = module;
    function->shared_limit = 48 << 10;
    snprintf(function->name, sizeof function->name, "%.*s", (int)length, name);
    return function;
}

static Result read_ptx(Object *module, const char *text) {
    const char *target = strstr(text, ".target sm_");
    if (!target) return INVALID_IMAGE;
    char *letter;
    long arch = strtol(target + 11, &letter, 10);
    int here = capability();
    if (arch > here || (*letter == 'a' && arch != here)) return NO_BINARY_FOR_GPU;
    for (const char *entry = strstr(text, ".entry "); entry; entry = strstr(entry + 1, ".entry ")) {
        const char *name = entry + 7, *end = strchr(name, '(');
        if (!end) return INVALID_IMAGE;
        Object *function = add_function(module, name, strcspn(name, "( \t\n"));
        const char *close = strchr(end, ')');
        int offset = 0;
        for (const char *one = strstr(end, ".param ."); one && one < close; one = strstr(one + 1, ".param .")) {
            int bytes = atoi(one + 9) / 8;
            if (function->parameters == MAX_PARAMETERS || (bytes != 4 && bytes != 8)) return INVALID_IMAGE;
            offset = (offset + bytes - 1) / bytes * bytes;
            function->sizes[function->parameters] = bytes;
            function->offsets[function->parameters++] = offset;
            offset += bytes;
        }
        const char *required = close ? strstr(close, ".reqntid ") : NULL, *body = close ? strchr(close, '{') : NULL;
        if (required && body && required < body) function->required_block = (unsigned)atoi(required + 9);
    }
    return SUCCESS;
}

/* Attributes of a kernel are in section .nv.info.KERNEL: 0x17 is a parameter, 0x10 the required block. */
static Result read_cubin(Object *module, const unsigned char *image) {
    const Elf64_Ehdr *header = (const void *)image;
    int arch = header->e_ident[EI_ABIVERSION] >= 8 ? (int)(header->e_flags >> 8 & 0xff) : (int)(header->e_flags & 0xff);
    int here = capability();
    if (arch / 10 != here / 10 || arch > here) return NO_BINARY_FOR_GPU;
    const Elf64_Shdr *sections = (const void *)(image + header->e_shoff);
    const char *names = (const char *)image + sections[header->e_shstrndx].sh_offset;
    for (int index = 0; index < header->e_shnum; index++) {
        const char *name = names + sections[index].sh_name;
        if (strncmp(name, ".nv.info.", 9)) continue;
        Object *function = add_function(module, name + 9, strlen(name + 9));
        const unsigned char *at = image + sections[index].sh_offset, *end = at + sections[index].sh_size;
        while (at + 4 <= end) {
            unsigned format = at[0], attribute = at[1], size = at[2] | at[3] << 8;
            const unsigned char *value = at + 4;
            at = value + (format == 4 ? size : 0);
            if (format == 4 && attribute == 0x17 && size >= 12) {
                unsigned ordinal = value[4] | value[5] << 8, offset = value[6] | value[7] << 8, word;
                memcpy(&word, value + 8, 4);
                if (ordinal >= MAX_PARAMETERS) return INVALID_IMAGE;
                function->sizes[ordinal] = (int)(word >> 18);
                function->offsets[ordinal] = (int)offset;
                if ((int)ordinal >= function->parameters) function->parameters = (int)ordinal + 1;
            }
            if (format == 4 && attribute == 0x10) memcpy(&function->required_block, value, 4);
        }
    }
    return SUCCESS;
}

Result cuModuleLoadDataEx(Object **module, const void *image, unsigned options, int *keys, void **values) {
    (void)options; (void)keys; (void)values;
    ENTER_CONTEXT("cuModuleLoadData");
    *module = make(MODULE);
    Result failure = memcmp(image, ELFMAG, SELFMAG) ? read_ptx(*module, image) : read_cubin(*module, image);
    if (failure) unmake(*module);
    return failure;
}

Result cuModuleLoadData(Object **module, const void *image) { return cuModuleLoadDataEx(module, image, 0, NULL, NULL); }

Result cuModuleUnload(Object *module) {
    ENTER_CONTEXT("cuModuleUnload");
    REQUIRE(module, MODULE, "cuModuleUnload");
    for (Object *object = objects, *next; object; object = next) {
        next = object->next;
        if (object->kind == FUNCTION && object->module == module) unmake(object);
    }
    unmake(module);
    return SUCCESS;
}

Result cuModuleGetFunction(Object **function, Object *module, const char *name) {
    ENTER_CONTEXT("cuModuleGetFunction");
    REQUIRE(module, MODULE, "cuModuleGetFunction");
    for (Object *object = objects; object; object = object->next)
        if (object->kind == FUNCTION && object->module == module && !strcmp(object->name, name)) {
            *function = object;
            return SUCCESS;
        }
    return NOT_FOUND;
}

Result cuFuncSetAttribute(Object *function, int attribute, int value) {
    ENTER_CONTEXT("cuFuncSetAttribute");
    REQUIRE(function, FUNCTION, "cuFuncSetAttribute");
    if (attribute != 8 || value < 0 || value > 227 << 10) return INVALID_VALUE;
    function->shared_limit = (unsigned)value;
    return SUCCESS;
}

/* Deprecated; pycuda calls it before each launch, which brings its own block. */
Result cuFuncSetBlockShape(Object *function, int x, int y, int z) {
    ENTER_CONTEXT("cuFuncSetBlockShape");
    REQUIRE(function, FUNCTION, "cuFuncSetBlockShape");
    return x > 0 && y > 0 && z > 0 ? SUCCESS : INVALID_VALUE;
}

Result cuFuncGetAttribute(int *value, int attribute, Object *function) {
    ENTER_CONTEXT("cuFuncGetAttribute");
    REQUIRE(function, FUNCTION, "cuFuncGetAttribute");
    *value = attribute == 8 ? (int)function->shared_limit : 0;
    return SUCCESS;
}

Result cuLaunchKernel(Object *function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,
                      unsigned block_y, unsigned block_z, unsigned shared, Object *stream, void **parameters,
                      void **extra) {
    ENTER_CONTEXT("cuLaunchKernel");
    REQUIRE(function, FUNCTION, "cuLaunchKernel");
    REQUIRE(stream, STREAM, "cuLaunchKernel");
    unsigned threads = block_x * block_y * block_z;
    if (!grid_x || !grid_y || !grid_z || !threads || threads > 1024) return INVALID_VALUE;
    if (function->required_block && function->required_block != threads) return INVALID_VALUE;
    if (shared > function->shared_limit) return INVALID_VALUE;
    Operation operation = {.kind = LAUNCH, .function = function, .grid = {grid_x, grid_y, grid_z},
                           .block = {block_x, block_y, block_z}, .shared = shared};
    int needed = 0;
    for (int index = 0; index < function->parameters; index++)
        if (function->offsets[index] + function->sizes[index] > needed)
            needed = function->offsets[index] + function->sizes[index];
    if (parameters) {
        for (int index = 0; index < function->parameters; index++)
            memcpy(operation.parameters + function->offsets[index], parameters[index], (size_t)function->sizes[index]);
    } else if (extra) {
        /* 1: the buffer, 2: a pointer to its size, 0: the end. */
        const void *buffer = NULL;
        size_t size = 0;
        for (int index = 0; extra[index]; index += 2) {
            if (extra[index] == (void *)1) buffer = extra[index + 1];
            if (extra[index] == (void *)2) size = *(size_t *)extra[index + 1];
        }
        if (size != (size_t)needed) { VIOLATION("%s gets %zu bytes of arguments, not %d", function->name, size, needed); return INVALID_VALUE; }
        memcpy(operation.parameters, buffer, size);
    } else if (needed) {
        VIOLATION("%s is launched without its arguments", function->name);
        return INVALID_VALUE;
    }
    enqueue(stream, &operation);
    return SUCCESS;
}

/* -- graphs -- */

Result cuStreamBeginCapture_v2(Object *stream, int mode) {
    ENTER_CONTEXT("cuStreamBeginCapture");
    REQUIRE(stream, STREAM, "cuStreamBeginCapture");
    if (stream->capturing || stream->count || mode != 1) return INVALID_VALUE;
    stream->capturing = 1;
    return SUCCESS;
}

Result cuStreamEndCapture(Object *stream, Object **graph) {
    ENTER_CONTEXT("cuStreamEndCapture");
    REQUIRE(stream, STREAM, "cuStreamEndCapture");
    if (!stream->capturing) return INVALID_VALUE;
    *graph = make(GRAPH);
    (*graph)->operations = stream->operations;
    (*graph)->count = stream->count;
    stream->operations = NULL;
    stream->count = stream->capturing = 0;
    return SUCCESS;
}

Result cuGraphInstantiate(Object **executable, Object *graph, unsigned long long flags) {
    ENTER_CONTEXT("cuGraphInstantiate");
    REQUIRE(graph, GRAPH, "cuGraphInstantiate");
    if (flags) return INVALID_VALUE;
    *executable = make(EXECUTABLE);
    for (int index = 0; index < graph->count; index++) enqueue(*executable, &graph->operations[index]);
    return SUCCESS;
}

Result cuGraphInstantiateWithFlags(Object **executable, Object *graph, unsigned long long flags) {
    return cuGraphInstantiate(executable, graph, flags);
}

Result cuGraphUpload(Object *executable, Object *stream) {
    ENTER_CONTEXT("cuGraphUpload");
    REQUIRE(executable, EXECUTABLE, "cuGraphUpload");
    REQUIRE(stream, STREAM, "cuGraphUpload");
    return SUCCESS;
}

Result cuGraphLaunch(Object *executable, Object *stream) {
    ENTER_CONTEXT("cuGraphLaunch");
    REQUIRE(executable, EXECUTABLE, "cuGraphLaunch");
    REQUIRE(stream, STREAM, "cuGraphLaunch");
    for (int index = 0; index < executable->count; index++) enqueue(stream, &executable->operations[index]);
    return SUCCESS;
}

Result cuGraphDestroy(Object *graph) {
    ENTER_CONTEXT("cuGraphDestroy");
    REQUIRE(graph, GRAPH, "cuGraphDestroy");
    unmake(graph);
    return SUCCESS;
}

Result cuGraphExecDestroy(Object *executable) {
    ENTER_CONTEXT("cuGraphExecDestroy");
    REQUIRE(executable, EXECUTABLE, "cuGraphExecDestroy");
    unmake(executable);
    return SUCCESS;
}

/* -- how cuda-bindings finds the functions: by names without a version -- */

Result cuGetProcAddress_v2(const char *symbol, void **function, int version, uint64_t flags, int *status) {
    (void)version; (void)flags;
    char versioned[128];
    snprintf(versioned, sizeof versioned, "%s_v2", symbol);
    Dl_info self;
    dladdr((void *)(uintptr_t)&cuGetProcAddress_v2, &self);
    void *library = dlopen(self.dli_fname, RTLD_NOLOAD | RTLD_LAZY);
    *function = dlsym(library, versioned);
    if (!*function) *function = dlsym(library, symbol);
    dlclose(library);
    if (status) *status = *function ? 0 : 1;
    return *function ? SUCCESS : NOT_FOUND;
}

/* -- for the tests -- */

void fake_forget(void) { *violations = 0; }

const char *fake_report(void) {
    snprintf(report, sizeof report,
             "{\"retained\": %d, \"depth\": %d, \"held\": {\"streams\": %d, \"events\": %d, \"blocks\": %d, "
             "\"locked\": %d, \"modules\": %d, \"graphs\": %d, \"executables\": %d}, \"violations\": [%s], "
             "\"launches\": [%s], \"calls\": [%s]}",
             retained, depth, count_of(STREAM), count_of(EVENT), count_of(BLOCK), count_of(LOCKED), count_of(MODULE),
             count_of(GRAPH), count_of(EXECUTABLE), violations, launches, calls);
    *calls = *launches = 0;
    return report;
}

void fake_fail(const char *function, int nth, Result status) {
    snprintf(fail_function, sizeof fail_function, "%s", function);
    fail_countdown = nth;
    fail_status = status;
}
