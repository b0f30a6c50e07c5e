/* PP-HGNetV2 as a C library: an exported folder in, classes of pictures out; and the preprocessing
 * alone, for programs that have a runtime of their own.
 *
 * Every function that can fail returns a status; hgnetv2_error() says in one line why the last call
 * of this thread failed. All text is UTF-8. One handle is used by one thread at a time, except that
 * any number of threads may share an hgnetv2_preprocess.
 */
#ifndef HGNETV2_H
#define HGNETV2_H

#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32)
#if defined(HGNETV2_BUILDING)
#define HGNETV2_API __declspec(dllexport)
#else
#define HGNETV2_API __declspec(dllimport)
#endif
#else
#define HGNETV2_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* The same numbers as the exit codes of hgnetv2_predict and of `hgnetv2 predict` in Python. */
typedef enum hgnetv2_status {
    HGNETV2_OK = 0,
    HGNETV2_FAILED = 1,    /* of the library or the machine: memory, a runtime */
    HGNETV2_PARAMETER = 2, /* an argument is unknown or out of range */
    HGNETV2_DATA = 3,      /* a picture cannot be read */
    HGNETV2_WEIGHTS = 4    /* the exported folder is missing, damaged or of another network */
} hgnetv2_status;

typedef struct hgnetv2_model hgnetv2_model;
typedef struct hgnetv2_preprocess hgnetv2_preprocess;

/* Zeros and NULLs are the defaults. */
typedef struct hgnetv2_options {
    const char* engine; /* "openvino", "onnxruntime", "tensorrt"; NULL: the first compiled in */
    const char* device; /* "cpu", "gpu"; NULL: what the engine prefers */
    int threads;        /* of the processor; 0: the engine's choice */
    int batch_size;     /* pictures that one pass computes; 0: 1 */
} hgnetv2_options;

typedef struct hgnetv2_image {
    const void* bytes; /* the bytes of a JPEG or PNG file */
    size_t size;
} hgnetv2_image;

typedef struct hgnetv2_answer {
    int class_id;
    double score;      /* 0 to 1: softmax, or the sigmoid of each class for several labels */
    const char* label; /* lives as long as the model */
} hgnetv2_answer;

typedef struct hgnetv2_result {
    hgnetv2_status status;   /* of this picture; a bad one does not cost the others theirs */
    hgnetv2_answer* answers; /* in: room for topk answers; filled best first */
    size_t count;            /* how many there are */
    char reason[256];        /* why there are none; empty if status is HGNETV2_OK */
} hgnetv2_result;

/* Why the last failing call of this thread failed; lives until its next one. */
HGNETV2_API const char* hgnetv2_error(void);

/* "openvino onnxruntime": what was compiled in, separated by spaces. */
HGNETV2_API const char* hgnetv2_engines(void);

/* A model: an exported folder, or a model file inside of one. options may be NULL. */
HGNETV2_API hgnetv2_status hgnetv2_open(const char* path, const hgnetv2_options* options,
                                        hgnetv2_model** model);
HGNETV2_API void hgnetv2_close(hgnetv2_model* model);

HGNETV2_API size_t hgnetv2_num_classes(const hgnetv2_model* model);
/* NULL for a number that is no class. */
HGNETV2_API const char* hgnetv2_label(const hgnetv2_model* model, size_t class_id);
/* Lives as long as the model. */
HGNETV2_API const hgnetv2_preprocess* hgnetv2_preprocess_of(const hgnetv2_model* model);

/* The topk best classes of each of count pictures, in passes of batch_size. Of a model of several
 * labels only those are reported that reach their thresholds. Fails only if no picture could be
 * answered for a reason that is not theirs. */
HGNETV2_API hgnetv2_status hgnetv2_classify(hgnetv2_model* model, const hgnetv2_image* images,
                                            size_t count, size_t topk, hgnetv2_result* results);

/* float32 [count, classes] from float32 [count, 3, height, width] as hgnetv2_tensor makes it. */
HGNETV2_API hgnetv2_status hgnetv2_logits(hgnetv2_model* model, const float* tensor, size_t count,
                                          float* logits);

/* The preprocessing alone, from an exported folder or its preprocess.json; no runtime is started.
 */
HGNETV2_API hgnetv2_status hgnetv2_preprocess_open(const char* path,
                                                   hgnetv2_preprocess** preprocess);
HGNETV2_API void hgnetv2_preprocess_close(hgnetv2_preprocess* preprocess);
/* Of what the network takes, in pixels. */
HGNETV2_API void hgnetv2_input_size(const hgnetv2_preprocess* preprocess, size_t* height,
                                    size_t* width);
/* uint8 [height, width, 3], red, green and blue: decoded, upright, resized and placed. */
HGNETV2_API hgnetv2_status hgnetv2_pixels(const hgnetv2_preprocess* preprocess, hgnetv2_image image,
                                          uint8_t* pixels);
/* float32 [3, height, width]: these scaled by mean and std. */
HGNETV2_API hgnetv2_status hgnetv2_tensor(const hgnetv2_preprocess* preprocess, hgnetv2_image image,
                                          float* tensor);

#ifdef __cplusplus
}
#endif

#endif
