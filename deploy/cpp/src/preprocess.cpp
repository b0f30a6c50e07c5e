#include "preprocess.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "error.h"
#include "json.h"
#include "text.h"

namespace hgnetv2 {
namespace {

constexpr int most_side = 4096;
constexpr std::int64_t most_pixels = 50'000'000;

/// Rounded as Python rounds: a half to the even neighbour.
int round_even(double value) { return static_cast<int>(std::nearbyint(value)); }

/// A value of the file, with what it must be.
class Value {
  public:
    Value(const nlohmann::json& said, const std::string& where, std::string name)
        : value_(said.contains(name) ? &said.at(name) : nullptr),
          where_(where),
          name_(std::move(name)) {}

    explicit operator bool() const { return value_ != nullptr && !value_->is_null(); }
    const nlohmann::json& json() const { return *value_; }

    [[noreturn]] void refuse(const std::string& needed) const {
        throw WeightsError(where_ + ": preprocess." + name_ + ": " + needed);
    }

    std::int64_t whole(std::int64_t least, std::int64_t most,
                       const nlohmann::json* one = nullptr) const {
        const auto& value = one != nullptr ? *one : *value_;
        if (!value.is_number_integer() ||
            (value.is_number_unsigned() && value.get<std::uint64_t>() > INT64_MAX) ||
            value.get<std::int64_t>() < least || value.get<std::int64_t>() > most)
            refuse("a whole number from " + std::to_string(least) + " to " + std::to_string(most) +
                   " is needed");
        return value.get<std::int64_t>();
    }

    template <typename Name> Name named(const std::map<std::string, Name>& names) const {
        if (value_->is_string())
            if (const auto found = names.find(value_->get<std::string>()); found != names.end())
                return found->second;
        std::string all;
        for (const auto& [name, unused] : names) all += (all.empty() ? "" : ", ") + name;
        refuse("one of " + all + " is needed");
    }

    const nlohmann::json& list(std::size_t size) const {
        if (!value_->is_array() || value_->size() != size)
            refuse("a list of " + std::to_string(size) + " is needed");
        return *value_;
    }

    Colour colour() const {
        Colour colour;
        std::transform(list(3).begin(), list(3).end(), colour.begin(), [this](const auto& part) {
            return static_cast<std::uint8_t>(whole(0, 255, &part));
        });
        return colour;
    }

    std::array<double, 3> numbers(double least, double most) const {
        std::array<double, 3> found;
        std::transform(list(3).begin(), list(3).end(), found.begin(), [&](const auto& part) {
            if (!part.is_number() || !(least <= part.template get<double>()) ||
                !(part.template get<double>() <= most))
                refuse("three numbers in range are needed");
            return part.template get<double>();
        });
        return found;
    }

    Depth depth() const {
        if (!value_->is_array()) return static_cast<int>(whole(8, 16));
        const int low = static_cast<int>(whole(0, 65534, &list(2)[0]));
        return std::pair(low, static_cast<int>(whole(low + 1, 65535, &list(2)[1])));
    }

  private:
    const nlohmann::json* value_;
    const std::string& where_;
    std::string name_;
};

/// A picture's size with its proportions kept so that it just covers, or fits into, a box.
std::pair<int, int> scaled(std::int64_t width, std::int64_t height, std::int64_t box_height,
                           std::int64_t box_width, bool cover) {
    if ((width * box_height >= height * box_width) == cover)
        return {std::max(1, round_even(static_cast<double>(width * box_height) / height)),
                static_cast<int>(box_height)};
    return {static_cast<int>(box_width),
            std::max(1, round_even(static_cast<double>(height * box_width) / width))};
}

}  // namespace

Preprocess::Preprocess(const std::string& json, const std::string& where) {
    const auto said = parse_object(json, where);
    static const std::vector<std::string> known = {
        "resize_short", "crop",       "mean",        "std",        "interpolation",
        "max_pixels",   "background", "fit",         "pad_colour", "depth",
        "input",        "steps",      "transparency"};
    for (const auto& [name, unused] : said.items())
        if (std::find(known.begin(), known.end(), name) == known.end())
            throw WeightsError(where + ": unknown preprocessing parameter " + json_text(name) +
                               "; it was made by a later version");
    const auto value = [&](const char* name) { return Value(said, where, name); };

    if (const auto fit = value("fit"))
        fit_ = fit.named<Fit>({{"crop", Fit::crop}, {"squash", Fit::squash}, {"pad", Fit::pad}});
    if (const auto filter = value("interpolation"))
        filter_ = filter.named<Filter>({{"bicubic", Filter::bicubic},
                                        {"bilinear", Filter::bilinear},
                                        {"lanczos", Filter::lanczos},
                                        {"nearest", Filter::nearest}});
    height_ = width_ = 224;
    if (const auto crop = value("crop")) {
        const bool oblong = crop.json().is_array();
        height_ = static_cast<int>(crop.whole(1, most_side, oblong ? &crop.list(2)[0] : nullptr));
        width_ = static_cast<int>(crop.whole(1, most_side, oblong ? &crop.list(2)[1] : nullptr));
    }
    const int edge = std::min(height_, width_);
    std::int64_t resize_short = 232;
    if (const auto given = value("resize_short"); fit_ != Fit::crop)
        resize_short = edge;
    else if (given)
        resize_short = given.whole(edge, most_side);
    else if (resize_short < edge)
        given.refuse("a whole number of at least the crop is needed");
    box_height_ = round_even(static_cast<double>(height_ * resize_short) / edge);
    box_width_ = round_even(static_cast<double>(width_ * resize_short) / edge);

    std::array<double, 3> mean = {0.485, 0.456, 0.406}, deviation = {0.229, 0.224, 0.225};
    if (const auto given = value("mean")) mean = given.numbers(-1e3, 1e3);
    if (const auto given = value("std")) deviation = given.numbers(1e-4, 1e3);
    for (int channel = 0; channel < 3; ++channel)
        for (int level = 0; level < 256; ++level)
            levels_[channel][level] =
                (static_cast<float>(level) / 255.0f - static_cast<float>(mean[channel])) /
                static_cast<float>(deviation[channel]);

    if (const auto most = value("max_pixels"))
        decoding_.max_pixels = std::min(most.whole(1, INT64_MAX), most_pixels);
    if (const auto background = value("background")) decoding_.background = background.colour();
    if (const auto depth = value("depth")) decoding_.depth = depth.depth();
    if (const auto colour = value("pad_colour"))
        pad_colour_ = colour.colour();
    else
        std::transform(mean.begin(), mean.end(), pad_colour_.begin(), [](double part) {
            return static_cast<std::uint8_t>(std::clamp(round_even(255 * part), 0, 255));
        });
}

Picture Preprocess::pixels(Bytes file) const { return cut(decode(file, decoding_)); }

Picture Preprocess::cut(const Picture& decoded) const {
    Resize wanted{0,
                  0,
                  static_cast<float>(decoded.width),
                  static_cast<float>(decoded.height),
                  width_,
                  height_,
                  0,
                  0,
                  width_,
                  height_};
    if (fit_ == Fit::squash) return resize(decoded, wanted, filter_);
    const bool cover = fit_ == Fit::crop;
    std::tie(wanted.width, wanted.height) =
        scaled(decoded.width, decoded.height, box_height_, box_width_, cover);
    if (fit_ == Fit::pad) {
        wanted.crop_width = wanted.width, wanted.crop_height = wanted.height;
        const Picture resized = resize(decoded, wanted, filter_);
        Picture frame(width_, height_);
        for (std::size_t i = 0; i < frame.rgb.size(); ++i) frame.rgb[i] = pad_colour_[i % 3];
        const int left = (width_ - resized.width) / 2, top = (height_ - resized.height) / 2;
        for (int y = 0; y < resized.height; ++y)
            std::copy_n(resized.row(y), 3 * resized.width, frame.row(top + y) + 3 * left);
        return frame;
    }
    const int left = (wanted.width - width_) / 2, top = (wanted.height - height_) / 2;
    if (std::int64_t{wanted.width} * wanted.height <= decoding_.max_pixels) {
        wanted.crop_left = left, wanted.crop_top = top;
        return resize(decoded, wanted, filter_);
    }
    // Python resizes of a sliver only what the crop needs, from a box that Pillow rounds to
    // float32.
    const double across = static_cast<double>(decoded.width) / wanted.width;
    const double down = static_cast<double>(decoded.height) / wanted.height;
    const Resize part{static_cast<float>(left * across),
                      static_cast<float>(top * down),
                      static_cast<float>(std::min<double>((left + width_) * across, decoded.width)),
                      static_cast<float>(std::min<double>((top + height_) * down, decoded.height)),
                      width_,
                      height_,
                      0,
                      0,
                      width_,
                      height_};
    return resize(decoded, part, filter_);
}

void Preprocess::scale(const Picture& picture, float* tensor) const {
    const std::size_t plane = picture.rgb.size() / 3;
    for (int channel = 0; channel < 3; ++channel)
        for (std::size_t i = 0; i < plane; ++i)
            tensor[channel * plane + i] = levels_[channel][picture.rgb[3 * i + channel]];
}

}  // namespace hgnetv2
