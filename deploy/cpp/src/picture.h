#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <variant>
#include <optional>
#include <vector>

namespace hgnetv2 {

using Colour = std::array<std::uint8_t, 3>;

/// Part of 16 bits a channel that is seen: the bits in use (8 to 16), or the levels that become 0
/// and 255.
using Depth = std::variant<int, std::pair<int, int>>;

struct Bytes {
    const std::uint8_t* data;
    std::size_t size;
};

/// uint8 [height, width, 3].
struct Picture {
    int width = 0, height = 0;
    std::vector<std::uint8_t> rgb;

    Picture() = default;
    Picture(int width, int height)
        : width(width), height(height), rgb(std::size_t{3} * width * height) {}
    std::uint8_t* row(int y) { return rgb.data() + std::size_t{3} * width * y; }
    const std::uint8_t* row(int y) const { return rgb.data() + std::size_t{3} * width * y; }
};

/// What may be chosen about decoding; see data/decode.py for the rules.
struct Decoding {
    std::int64_t max_pixels = 50'000'000;
    std::optional<Colour> background;
    Depth depth = 16;
};

/// The RGB pixels of a JPEG or PNG file, upright. DataError with the reason for everything else.
Picture decode(Bytes file, const Decoding& decoding);

// One decoder each, behind decode(): upright is done there, by what they say of the orientation.
Picture decode_jpeg(Bytes file, const Decoding& decoding, int* orientation);
Picture decode_png(Bytes file, const Decoding& decoding, int* orientation);

/// DataError for a header that announces more pixels than are allowed.
void check_pixels(std::int64_t width, std::int64_t height, const Decoding& decoding);

/// One channel's value of 16 bits in 8.
std::uint8_t narrow(int value, const Depth& depth);

/// EXIF orientation, 1 where neither block says one. Either may be null, as the file has it.
int orientation_of(const std::string* exif, const std::string* xmp);

/// Turned and mirrored as an EXIF orientation says; other numbers than 2 to 8 change nothing.
Picture upright(Picture picture, int orientation);

/// Whether a file of this name is to be taken for a picture, readable or not: by its ending, or
/// without one by how it starts.
bool claims_picture(const std::string& ending, const std::string& head);

}  // namespace hgnetv2
