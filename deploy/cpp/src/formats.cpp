// Which files are pictures, and what becomes of formats that are not read here (data/formats.py).

#include <algorithm>
#include <string>
#include <string_view>

#include "error.h"
#include "picture.h"

namespace hgnetv2 {
namespace {

using namespace std::string_literals;
using namespace std::string_view_literals;

struct Start {
    std::size_t place;
    std::string_view sign;
};

struct Format {
    std::string_view name;
    std::string_view endings;  // each with a space before and behind it
    std::vector<Start> starts;
    std::string_view example;  // of names, for the advice to convert it; empty: it is read
};

constexpr auto convert = "convert it, as by: magick mogrify -format png "sv;

const std::vector<Format>& formats() {
    static const std::vector<Format> all = {
        {"JPEG", " jpg jpeg jpe jfif mpo ", {{0, "\xff\xd8\xff"sv}}, ""},
        {"PNG", " png ", {{0, "\x89PNG"sv}}, ""},
        {"WEBP", " webp ", {{8, "WEBP"sv}}, "*.webp"},
        {"BMP", " bmp dib ", {{0, "BM"sv}}, "*.bmp"},
        {"TIFF", " tif tiff ", {{0, "II*\0"sv}, {0, "MM\0*"sv}}, "*.tif"},
        {"GIF", " gif ", {{0, "GIF87a"sv}, {0, "GIF89a"sv}}, "*.gif"},
        {"AVIF", " avif ", {{4, "ftypavif"sv}, {4, "ftypavis"sv}}, "*.avif"},
        {"JPEG2000",
         " jp2 j2k j2c jpf jpx ",
         {{0, "\0\0\0\x0cjP  "sv}, {0, "\xff\x4f\xff\x51"sv}},
         "*.jp2"},
        {"HEIF",
         " heic heif hif ",
         {{4, "ftypheic"sv},
          {4, "ftypheix"sv},
          {4, "ftypheim"sv},
          {4, "ftypheis"sv},
          {4, "ftyphevc"sv},
          {4, "ftypmif1"sv}},
         "*.heic"},
        {"JPEG XL", " jxl ", {{0, "\xff\x0a"sv}, {0, "\0\0\0\x0cJXL "sv}}, "*.jxl"},
        {"SVG", " svg ", {}, "*.svg"},
        {"netpbm",
         " ppm pgm pbm pnm ",
         {{0, "P1\n"sv}, {0, "P2\n"sv}, {0, "P3\n"sv}, {0, "P4\n"sv}, {0, "P5\n"sv}, {0, "P6\n"sv}},
         "*.ppm"},
        {"Photoshop", " psd ", {{0, "8BPS"sv}}, "*.psd"},
        {"PostScript (EPS)", " eps ", {{0, "%!PS"sv}}, "*.eps"},
        {"icon", " ico ", {{0, "\0\0\1\0"sv}}, "*.ico"},
        {"Targa", " tga ", {}, "*.tga"},
        {"PCX", " pcx ", {}, "*.pcx"},
        {"camera raw", " cr2 cr3 nef dng arw orf raw ", {}, "*.nef"},
    };
    return all;
}

const Format* known_by_start(std::string_view head) {
    for (const Format& format : formats())
        for (const Start& start : format.starts)
            if (head.size() >= start.place + start.sign.size() &&
                head.substr(start.place, start.sign.size()) == start.sign)
                return &format;
    return nullptr;
}

std::string why_unidentified(std::string_view head) {
    const auto allowed = "; allowed are JPEG and PNG"s;
    if (const auto text = head.find_first_not_of(" \t\r\n"); text != head.npos && head[text] == '<')
        return "a web page or XML text, not an image" + allowed;
    for (const auto& [sign, what] : {std::pair{"%PDF"sv, "a PDF"},
                                     {"PK\x03\x04"sv, "a zip archive"},
                                     {"\x1f\x8b"sv, "a gzip file"},
                                     {"SIMPLE"sv, "a FITS file"}})
        if (head.substr(0, sign.size()) == sign)
            return what + ", not an image of an allowed format"s + allowed;
    return "not an image of an allowed format" + allowed;
}

}  // namespace

bool claims_picture(const std::string& ending, const std::string& head) {
    if (ending.empty()) return known_by_start(head) != nullptr;
    for (const Format& format : formats())
        if (format.endings.find(" " + ending + " ") != format.endings.npos) return true;
    return false;
}

void check_pixels(std::int64_t width, std::int64_t height, const Decoding& decoding) {
    if (width * height <= decoding.max_pixels) return;
    auto most = std::to_string(decoding.max_pixels);
    for (auto place = static_cast<int>(most.size()) - 3; place > 0; place -= 3)
        most.insert(place, ",");
    throw DataError("too many pixels: " + std::to_string(width) + "x" + std::to_string(height) +
                    " in the header, allowed are " + most + "; save a smaller copy");
}

Picture decode(Bytes file, const Decoding& decoding) {
    if (file.size == 0) throw DataError("the file is empty (0 bytes)");
    const std::string_view head(reinterpret_cast<const char*>(file.data),
                                std::min<std::size_t>(file.size, 512));
    const Format* format = known_by_start(head);
    if (format == nullptr) throw DataError(why_unidentified(head));
    if (!format->example.empty())
        throw DataError(std::string(format->name) + " is not read here: " + std::string(convert) +
                        std::string(format->example) + "; allowed are JPEG and PNG");
    int orientation = 1;
    Picture picture = format->name == "JPEG" ? decode_jpeg(file, decoding, &orientation)
                                             : decode_png(file, decoding, &orientation);
    return upright(std::move(picture), orientation);
}

std::uint8_t narrow(int value, const Depth& depth) {
    if (const int* bits = std::get_if<int>(&depth))
        return static_cast<std::uint8_t>(std::min(value >> (*bits - 8), 255));
    const auto [low, high] = std::get<std::pair<int, int>>(depth);
    const std::int64_t above = std::clamp(value, low, high) - low, range = high - low;
    return static_cast<std::uint8_t>((2 * 255 * above + range) / (2 * range));
}

}  // namespace hgnetv2
