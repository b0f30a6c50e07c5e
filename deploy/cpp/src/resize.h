#pragma once

#include "picture.h"

namespace hgnetv2 {

enum class Filter { nearest, bilinear, bicubic, lanczos };

/// Which part of a picture becomes which size, and what of the result is wanted.
struct Resize {
    float left, top, right, bottom;                    // of the picture, in its pixels
    int width, height;                                 // of the whole result
    int crop_left, crop_top, crop_width, crop_height;  // of it what is made
};

/// Pillow's ``resize`` and ``crop`` in one, level for level: only what is wanted is computed.
Picture resize(const Picture& picture, const Resize& wanted, Filter filter);

}  // namespace hgnetv2
