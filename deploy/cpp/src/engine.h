#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

namespace hgnetv2 {

struct EngineOptions {
    std::string engine;  // empty: the first compiled in
    std::string device;  // "cpu", "gpu"; empty: what the engine prefers
    int threads = 0;     // 0: the engine's choice
    int batch_size = 1;
    int height = 0, width = 0;  // of the input
};

/// Entries of a model file's metadata that are read.
inline const std::vector<std::string> noted = {"precision", "probes"};

/// Runs an exported model. Errors of its runtime become ParameterError or WeightsError.
class Engine {
  public:
    virtual ~Engine() = default;

    /// float32 [batch_size, classes] of float32 [batch_size, 3, height, width].
    virtual void run(const float* images, float* logits) = 0;

    int classes = 0;
    std::map<std::string, std::string> notes;  // of ``noted``, what the model file says of itself
    std::string name, device;
};

/// The engines compiled in, the one taken by default first.
std::vector<std::string> engine_names();

/// ``path`` in the engine that ``options`` name.
std::unique_ptr<Engine> open_engine(const std::string& path, const EngineOptions& options);

std::unique_ptr<Engine> open_openvino(const std::string& path, const EngineOptions& options);
std::unique_ptr<Engine> open_onnxruntime(const std::string& path, const EngineOptions& options);
std::unique_ptr<Engine> open_tensorrt(const std::string& path, const EngineOptions& options);

/// A message of a library, which may take many lines, on one of 300 bytes at most.
std::string one_line(const std::string& message);

}  // namespace hgnetv2
