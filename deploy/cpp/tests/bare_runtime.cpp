// bare_runtime MODEL.onnx HEIGHT WIDTH: the runtime with the model in it, run once on zeros, and
// nothing of ours: what the memory of hgnetv2_predict is compared with.

#include <cstdio>
#include <cstdlib>

#include "engine.h"

int main(int count, char** values) {
    if (count != 4) return 2;
    hgnetv2::EngineOptions options;
    options.threads = 1;
    options.height = std::atoi(values[2]);
    options.width = std::atoi(values[3]);
    const auto engine = hgnetv2::open_engine(values[1], options);
    const std::vector<float> image(std::size_t{3} * options.height * options.width);
    std::vector<float> logits(static_cast<std::size_t>(engine->classes));
    engine->run(image.data(), logits.data());
    std::printf("%s on %s: %f\n", engine->name.c_str(), engine->device.c_str(), logits[0]);
}
