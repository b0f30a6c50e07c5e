#pragma once

#include <filesystem>

#include "picture.h"
#include "resize.h"

namespace hgnetv2 {

/// The evaluation view of a picture, with the numbers of data/preprocess.py.
class Preprocess {
  public:
    /// From the text of a preprocess.json. WeightsError, naming ``where``, for values that
    /// Python's would refuse.
    Preprocess(const std::string& json, const std::string& where);

    int height() const { return height_; }
    int width() const { return width_; }

    /// The picture as the network sees it, before it is scaled. DataError for a bad one.
    Picture pixels(Bytes file) const;

    /// float32 [3, height, width] of such a picture.
    void scale(const Picture& picture, float* tensor) const;

  private:
    Picture cut(const Picture& decoded) const;

    enum class Fit { crop, squash, pad };

    int height_ = 0, width_ = 0;
    int box_height_ = 0, box_width_ = 0;  // what a picture is resized to cover, or to fit into
    Fit fit_ = Fit::crop;
    Filter filter_ = Filter::bicubic;
    Colour pad_colour_{};
    Decoding decoding_;
    float levels_[3][256];  // of each channel, scaled
};

}  // namespace hgnetv2
