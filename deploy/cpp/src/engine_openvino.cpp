// OpenVINO, configured as engines/with_openvino.py does.

#include <algorithm>

#include <openvino/openvino.hpp>

#include "engine.h"
#include "error.h"

namespace hgnetv2 {
namespace {

class OpenVino : public Engine {
  public:
    OpenVino(const std::string& path, const EngineOptions& options) {
        const std::string plugin = options.device == "gpu" ? "GPU" : "CPU";
        try {
            device = core_.get_property(plugin, ov::device::full_name);
        } catch (const std::exception& error) {
            throw ParameterError("openvino: no device " + plugin +
                                 " here (--device): " + one_line(error.what()));
        }
        // Left alone, OpenVINO takes bf16 or f16 where the device has it.
        ov::AnyMap config = {ov::hint::performance_mode(ov::hint::PerformanceMode::LATENCY),
                             ov::hint::inference_precision(ov::element::f32)};
        if (options.threads > 0) config.insert(ov::inference_num_threads(options.threads));
        try {
            const auto model = core_.read_model(path);
            for (const std::string& key : noted)
                if (model->has_rt_info({"framework", key}))
                    notes[key] = model->get_rt_info<std::string>({"framework", key});
            model->reshape(ov::PartialShape{options.batch_size, 3, options.height, options.width});
            auto compiled = core_.compile_model(model, plugin, config);
            request_ = compiled.create_infer_request();
            const auto shape = compiled.output(0).get_shape();
            if (compiled.inputs().size() != 1 || shape.size() != 2)
                throw std::runtime_error("it gives no logits [batch, classes]");
            classes = static_cast<int>(shape[1]);
        } catch (const std::exception& error) {
            throw WeightsError("OpenVINO cannot read " + path + ": " + one_line(error.what()));
        }
        name = "openvino";
        size_ = std::size_t{3} * options.height * options.width * options.batch_size;
    }

    void run(const float* images, float* logits) override {
        try {
            auto input = request_.get_input_tensor();
            std::copy_n(images, size_, input.data<float>());
            request_.infer();
            const auto output = request_.get_output_tensor(0);
            std::copy_n(output.data<float>(), output.get_size(), logits);
        } catch (const std::exception& error) {
            throw WeightsError("OpenVINO cannot run the model: " + one_line(error.what()));
        }
    }

  private:
    ov::Core core_;
    ov::InferRequest request_;
    std::size_t size_ = 0;
};

}  // namespace

std::unique_ptr<Engine> open_openvino(const std::string& path, const EngineOptions& options) {
    return std::make_unique<OpenVino>(path, options);
}

}  // namespace hgnetv2
