// TensorRT on a plan that TensorRT has built for this GPU (trtexec --saveEngine, hgnetv2's kit).
// A plan is native code: load only your own.

#include <filesystem>
#include <fstream>

#include <NvInfer.h>
#include <cuda_runtime_api.h>

#include "engine.h"
#include "error.h"

namespace hgnetv2 {
namespace {

void check(cudaError_t status) {
    if (status != cudaSuccess) throw std::runtime_error(cudaGetErrorString(status));
}

/// Keeps the last error, which TensorRT does not return.
class Log : public nvinfer1::ILogger {
  public:
    void log(Severity severity, const char* message) noexcept override {
        if (severity <= Severity::kERROR) last = message;
    }
    std::string last = "no reason given";
};

struct FreeDevice {
    void operator()(void* memory) const { cudaFree(memory); }
};

class TensorRt : public Engine {
  public:
    TensorRt(const std::string& path, const EngineOptions& options) {
        if (options.device == "cpu")
            throw ParameterError("tensorrt: runs on a GPU alone (--device gpu)");
        int gpus = 0;
        if (const auto status = cudaGetDeviceCount(&gpus); status != cudaSuccess || gpus == 0)
            throw ParameterError(std::string("tensorrt: no NVIDIA GPU here: ") +
                                 cudaGetErrorString(status));
        try {
            cudaDeviceProp gpu{};
            check(cudaGetDeviceProperties(&gpu, 0));
            name = "tensorrt";
            device = gpu.name;
            check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
            read_plan(path);
            bind(options);
        } catch (const std::exception& error) {
            release();
            throw WeightsError("TensorRT cannot run " + path + ": " + one_line(error.what()));
        }
    }

    ~TensorRt() override { release(); }

    void run(const float* images, float* logits) override {
        try {
            check(cudaMemcpyAsync(input_.get(), images, input_bytes_, cudaMemcpyHostToDevice,
                                  stream_));
            if (!context_->enqueueV3(stream_)) throw std::runtime_error(log_.last);
            check(cudaMemcpyAsync(logits, output_.get(), output_bytes_, cudaMemcpyDeviceToHost,
                                  stream_));
            check(cudaStreamSynchronize(stream_));
        } catch (const std::exception& error) {
            throw WeightsError("TensorRT cannot run the model: " + one_line(error.what()));
        }
    }

  private:
    void read_plan(const std::string& path) {
        std::ifstream file(std::filesystem::u8path(path), std::ios::binary);
        const std::string plan((std::istreambuf_iterator<char>(file)),
                               std::istreambuf_iterator<char>());
        runtime_.reset(nvinfer1::createInferRuntime(log_));
        if (runtime_) engine_.reset(runtime_->deserializeCudaEngine(plan.data(), plan.size()));
        if (engine_) context_.reset(engine_->createExecutionContext());
        if (!context_) throw std::runtime_error(log_.last);
    }

    void bind(const EngineOptions& options) {
        const char* in = nullptr;
        const char* out = nullptr;
        for (int i = engine_->getNbIOTensors() - 1; i >= 0; --i) {
            const char* tensor = engine_->getIOTensorName(i);
            const bool input = engine_->getTensorIOMode(tensor) == nvinfer1::TensorIOMode::kINPUT;
            if (engine_->getTensorDataType(tensor) != nvinfer1::DataType::kFLOAT)
                throw std::runtime_error("its inputs and outputs are not all float32");
            (input ? in : out) = tensor;  // the first output: the logits
        }
        if (in == nullptr || out == nullptr) throw std::runtime_error("it has no input or output");
        const nvinfer1::Dims4 shape(options.batch_size, 3, options.height, options.width);
        if (!context_->setInputShape(in, shape))
            throw std::runtime_error("it was not built for batches of " +
                                     std::to_string(options.batch_size) +
                                     " (--batch-size): " + log_.last);
        const auto answers = context_->getTensorShape(out);
        if (answers.nbDims != 2) throw std::runtime_error("it gives no logits [batch, classes]");
        classes = static_cast<int>(answers.d[1]);
        input_bytes_ = sizeof(float) * 3 * options.batch_size * options.height * options.width;
        output_bytes_ = sizeof(float) * options.batch_size * answers.d[1];
        void* memory = nullptr;
        check(cudaMalloc(&memory, input_bytes_));
        input_.reset(memory);
        check(cudaMalloc(&memory, output_bytes_));
        output_.reset(memory);
        for (int i = 0; i < engine_->getNbIOTensors(); ++i) {
            const char* tensor = engine_->getIOTensorName(i);
            if (tensor == std::string(in) || tensor == std::string(out)) continue;
            // Embeddings, which nobody asked for, still need a place.
            const auto other = context_->getTensorShape(tensor);
            std::size_t bytes = sizeof(float);
            for (int k = 0; k < other.nbDims; ++k) bytes *= static_cast<std::size_t>(other.d[k]);
            check(cudaMalloc(&memory, bytes));
            others_.emplace_back(memory);
            context_->setTensorAddress(tensor, memory);
        }
        context_->setTensorAddress(in, input_.get());
        context_->setTensorAddress(out, output_.get());
    }

    void release() {
        if (stream_ != nullptr) cudaStreamDestroy(stream_);
        stream_ = nullptr;
    }

    Log log_;
    cudaStream_t stream_ = nullptr;
    std::unique_ptr<void, FreeDevice> input_, output_;
    std::vector<std::unique_ptr<void, FreeDevice>> others_;
    std::unique_ptr<nvinfer1::IRuntime> runtime_;
    std::unique_ptr<nvinfer1::ICudaEngine> engine_;
    std::unique_ptr<nvinfer1::IExecutionContext> context_;
    std::size_t input_bytes_ = 0, output_bytes_ = 0;
};

}  // namespace

std::unique_ptr<Engine> open_tensorrt(const std::string& path, const EngineOptions& options) {
    return std::make_unique<TensorRt>(path, options);
}

}  // namespace hgnetv2
