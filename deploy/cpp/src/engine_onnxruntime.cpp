// ONNX Runtime by its C API, configured as engines/with_ort.py does.

#include <filesystem>

#include <onnxruntime_c_api.h>

#include "engine.h"
#include "error.h"

namespace hgnetv2 {
namespace {

const OrtApi& api() {
    static const OrtApi* found = OrtGetApiBase()->GetApi(ORT_API_VERSION);
    if (found == nullptr)
        throw ParameterError(std::string("onnxruntime: the library, ") +
                             OrtGetApiBase()->GetVersionString() +
                             ", is older than the headers of this build");
    return *found;
}

void check(OrtStatus* status) {
    if (status == nullptr) return;
    const std::string message = api().GetErrorMessage(status);
    api().ReleaseStatus(status);
    throw std::runtime_error(message);
}

template <typename Thing> using Owned = std::unique_ptr<Thing, void (*)(Thing*)>;

/// What ``make`` writes, to be released by ``release``.
template <typename Thing, typename Make> Owned<Thing> owned(void (*release)(Thing*), Make make) {
    Thing* made = nullptr;
    check(make(&made));
    return {made, release};
}

class OnnxRuntime : public Engine {
  public:
    OnnxRuntime(const std::string& path, const EngineOptions& options)
        : env_(owned<OrtEnv>(api().ReleaseEnv,
                             [](OrtEnv** made) {
                                 return api().CreateEnv(ORT_LOGGING_LEVEL_ERROR, "hgnetv2", made);
                             })),
          session_(nullptr, api().ReleaseSession) {
        name = "onnxruntime";
        device = options.device == "gpu" ? "CUDA" : "CPU";
        shape_ = {options.batch_size, 3, options.height, options.width};
        const auto settings = owned<OrtSessionOptions>(
            api().ReleaseSessionOptions,
            [](OrtSessionOptions** made) { return api().CreateSessionOptions(made); });
        check(api().SetIntraOpNumThreads(settings.get(), options.threads));
        if (options.device == "gpu") add_cuda(settings.get());
        try {
            session_ = owned<OrtSession>(api().ReleaseSession, [&](OrtSession** made) {
                return api().CreateSession(env_.get(), std::filesystem::u8path(path).c_str(),
                                           settings.get(), made);
            });
            read_names();
            read_notes();
        } catch (const std::exception& error) {
            throw WeightsError("ONNX Runtime cannot read " + path + ": " + one_line(error.what()));
        }
    }

    void run(const float* images, float* logits) override {
        try {
            const auto memory =
                owned<OrtMemoryInfo>(api().ReleaseMemoryInfo, [](OrtMemoryInfo** made) {
                    return api().CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, made);
                });
            const auto tensor = [&](const float* data, const std::vector<std::int64_t>& shape) {
                std::size_t bytes = sizeof(float);
                for (const auto edge : shape) bytes *= static_cast<std::size_t>(edge);
                return owned<OrtValue>(api().ReleaseValue, [&](OrtValue** made) {
                    return api().CreateTensorWithDataAsOrtValue(
                        memory.get(), const_cast<float*>(data), bytes, shape.data(), shape.size(),
                        ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, made);
                });
            };
            const auto input = tensor(images, shape_);
            const auto output = tensor(logits, {shape_[0], classes});
            const char* in = input_.c_str();
            const char* out = output_.c_str();
            const OrtValue* inputs[] = {input.get()};
            OrtValue* outputs[] = {output.get()};
            check(api().Run(session_.get(), nullptr, &in, inputs, 1, &out, 1, outputs));
        } catch (const std::exception& error) {
            throw WeightsError("ONNX Runtime cannot run the model: " + one_line(error.what()));
        }
    }

  private:
    static void add_cuda(OrtSessionOptions* settings) {
        try {
            const auto cuda = owned<OrtCUDAProviderOptionsV2>(
                api().ReleaseCUDAProviderOptions, [](OrtCUDAProviderOptionsV2** made) {
                    return api().CreateCUDAProviderOptions(made);
                });
            const char* const keys[] = {"use_tf32"};
            const char* const values[] = {"0"};
            check(api().UpdateCUDAProviderOptions(cuda.get(), keys, values, 1));
            check(api().SessionOptionsAppendExecutionProvider_CUDA_V2(settings, cuda.get()));
        } catch (const std::exception& error) {
            throw ParameterError("onnxruntime: no GPU here (--device): " + one_line(error.what()));
        }
    }

    void read_names() {
        OrtAllocator* allocator = nullptr;
        check(api().GetAllocatorWithDefaultOptions(&allocator));
        const auto taken = [&](char* text) {
            const std::string copy = text;
            check(api().AllocatorFree(allocator, text));
            return copy;
        };
        char* text = nullptr;
        check(api().SessionGetInputName(session_.get(), 0, allocator, &text));
        input_ = taken(text);
        check(api().SessionGetOutputName(session_.get(), 0, allocator, &text));
        output_ = taken(text);
        const auto type = owned<OrtTypeInfo>(api().ReleaseTypeInfo, [&](OrtTypeInfo** made) {
            return api().SessionGetOutputTypeInfo(session_.get(), 0, made);
        });
        const OrtTensorTypeAndShapeInfo* info = nullptr;
        check(api().CastTypeInfoToTensorInfo(type.get(), &info));
        std::size_t rank = 0;
        std::int64_t shape[2] = {0, 0};
        if (info != nullptr) check(api().GetDimensionsCount(info, &rank));
        if (rank == 2) check(api().GetDimensions(info, shape, 2));
        if (shape[1] < 1) throw std::runtime_error("it gives no logits [batch, classes]");
        classes = static_cast<int>(shape[1]);
    }

    void read_notes() {
        OrtAllocator* allocator = nullptr;
        check(api().GetAllocatorWithDefaultOptions(&allocator));
        const auto card =
            owned<OrtModelMetadata>(api().ReleaseModelMetadata, [&](OrtModelMetadata** made) {
                return api().SessionGetModelMetadata(session_.get(), made);
            });
        for (const std::string& key : noted) {
            char* value = nullptr;
            check(api().ModelMetadataLookupCustomMetadataMap(card.get(), allocator, key.c_str(),
                                                             &value));
            if (value == nullptr) continue;
            notes[key] = value;
            check(api().AllocatorFree(allocator, value));
        }
    }

    Owned<OrtEnv> env_;
    Owned<OrtSession> session_;
    std::string input_, output_;
    std::vector<std::int64_t> shape_;
};

}  // namespace

std::unique_ptr<Engine> open_onnxruntime(const std::string& path, const EngineOptions& options) {
    return std::make_unique<OnnxRuntime>(path, options);
}

}  // namespace hgnetv2
