// How a picture was held: EXIF or XMP, as Pillow reads them, and turning it upright.

#include <string_view>

#include "picture.h"

namespace hgnetv2 {
namespace {

using namespace std::string_view_literals;

constexpr unsigned orientation_tag = 0x0112;

/// The directory of an EXIF block, which is a small TIFF file.
class Exif {
  public:
    explicit Exif(std::string_view block) : block_(block), big_(block.substr(0, 2) == "MM") {}

    /// Nothing where there is no such entry, so that XMP is asked; 0 for a value that is no whole
    /// number and for a block that is damaged, which end the search.
    std::optional<std::int64_t> orientation() const {
        if (block_.empty()) return std::nullopt;
        const auto order = block_.substr(0, 2), magic = block_.substr(2 < block_.size() ? 2 : 0, 2);
        if ((order != "MM" && order != "II") || (magic != "*\0"sv && magic != "\0*"sv)) return 0;
        const auto directory = number(4, 4);
        if (!directory) return 0;
        const auto entries = number(*directory, 2);
        std::uint64_t outside = 0;  // bytes of values that lie outside of the directory
        for (std::uint64_t i = 0; entries && i < *entries; ++i) {
            const auto place = *directory + 2 + 12 * i;
            const auto tag = number(place, 2), type = number(place + 2, 2);
            const auto count = number(place + 4, 4), offset = number(place + 8, 4);
            if (!offset) break;  // the block ends here
            const auto unit = *type < sizes.size() ? sizes[*type] : 0;
            const auto size = *count * unit;
            auto value_at = place + 8;
            if (size > 4) {
                outside += size;
                if (outside > block_.size()) continue;
                if (*offset + size > block_.size()) break;
                value_at = *offset;
            }
            if (*tag == orientation_tag && size > 0) return whole_number(*type, value_at, unit);
        }
        return std::nullopt;
    }

  private:
    // Bytes of a value by its type; 0 for types that are unknown.
    static constexpr std::array<unsigned, 17> sizes = {0, 1, 1, 2, 4, 8, 1, 1, 2,
                                                       4, 8, 4, 8, 4, 0, 0, 8};

    std::int64_t whole_number(std::uint64_t type, std::uint64_t place, unsigned unit) const {
        const bool whole = type == 3 || type == 4 || type == 6 || type == 8 || type == 9 ||
                           type == 13 || type == 16;
        const auto value = whole ? number(place, unit) : std::nullopt;
        return value && *value <= 8 ? static_cast<std::int64_t>(*value) : 0;
    }

    std::optional<std::uint64_t> number(std::uint64_t place, unsigned size) const {
        if (place > block_.size() || block_.size() - place < size) return std::nullopt;
        std::uint64_t value = 0;
        for (unsigned i = 0; i < size; ++i)
            value =
                value << 8 | static_cast<std::uint8_t>(block_[place + (big_ ? i : size - 1 - i)]);
        return value;
    }

    std::string_view block_;
    bool big_;
};

/// The digit behind tiff:Orientation, as an attribute or an element.
int in_xmp(std::string_view text) {
    constexpr auto name = "tiff:Orientation"sv;
    for (auto at = text.find(name); at != text.npos; at = text.find(name, at + 1)) {
        auto rest = text.substr(at + name.size());
        if (rest.substr(0, 2) == "=\"")
            rest.remove_prefix(2);
        else if (rest.substr(0, 1) == ">")
            rest.remove_prefix(1);
        else
            continue;
        if (!rest.empty() && rest[0] >= '0' && rest[0] <= '9') return rest[0] - '0';
    }
    return 1;
}

}  // namespace

int orientation_of(const std::string* exif, const std::string* xmp) {
    std::optional<std::int64_t> found;
    if (exif != nullptr) {
        std::string_view block(*exif);
        for (int i = 0; i < 2 && block.substr(0, 6) == "Exif\0\0"sv; ++i) block.remove_prefix(6);
        found = Exif(block).orientation();
    }
    if (!found && xmp != nullptr) return in_xmp(*xmp);
    return static_cast<int>(found.value_or(1));
}

Picture upright(Picture picture, int orientation) {
    if (orientation < 2 || orientation > 8) return picture;
    const int width = picture.width, height = picture.height;
    const bool sideways = orientation >= 5;
    Picture turned(sideways ? height : width, sideways ? width : height);
    // Where the pixel at x, y comes from: 2, 3, 6 and 7 mirror one edge of the file, 3, 4, 7 and 8
    // the other.
    const bool from_right =
        orientation == 2 || orientation == 3 || orientation == 7 || orientation == 8;
    const bool from_bottom =
        orientation == 3 || orientation == 4 || orientation == 6 || orientation == 7;
    for (int y = 0; y < turned.height; ++y) {
        std::uint8_t* out = turned.row(y);
        for (int x = 0; x < turned.width; ++x, out += 3) {
            int from_x = sideways ? y : x, from_y = sideways ? x : y;
            if (from_right) from_x = width - 1 - from_x;
            if (from_bottom) from_y = height - 1 - from_y;
            const std::uint8_t* in = picture.row(from_y) + 3 * from_x;
            out[0] = in[0], out[1] = in[1], out[2] = in[2];
        }
    }
    return turned;
}

}  // namespace hgnetv2
