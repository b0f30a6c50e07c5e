// What can be known without Python; that pixels equal Python's is tests/deployment/test_cpp.py's.

#include <cstdio>
#include <functional>
#include <limits>

#include "error.h"
#include "json.h"
#include "pictures.h"
#include "preprocess.h"
#include "text.h"

namespace {

using namespace std::string_literals;
using namespace hgnetv2;

int failures = 0;

#define CHECK(condition)                                                \
    do {                                                                \
        if (!(condition)) {                                             \
            std::printf("%s:%d: %s\n", __FILE__, __LINE__, #condition); \
            ++failures;                                                 \
        }                                                               \
    } while (false)

Bytes bytes(const std::string& text) {
    return {reinterpret_cast<const std::uint8_t*>(text.data()), text.size()};
}

std::string reason(const std::function<void()>& work) {
    try {
        work();
    } catch (const Error& error) {
        return error.what();
    }
    return "";
}

bool holds(const std::string& text, const std::string& part) {
    return text.find(part) != text.npos;
}

std::string grey_png(int depth, const std::string& row, const std::string& extra = "") {
    return make_png(2, 1, depth, 0, std::string(1, '\0') + row, extra);
}

void pictures_of_every_kind_are_read() {
    const Preprocess view(R"({"crop": 16, "resize_short": 18, "background": [9, 8, 7]})", "view");
    for (const std::string& file : make_pictures()) {
        const Picture picture = view.pixels(bytes(file));
        CHECK(picture.width == 16 && picture.height == 16);
    }
}

void grey_of_16_bits_follows_the_depth() {
    const std::string file = grey_png(16, "\x0f\xff\x01\x00"s);
    Decoding decoding;
    CHECK(decode(bytes(file), decoding).rgb == (std::vector<std::uint8_t>{15, 15, 15, 1, 1, 1}));
    decoding.depth = 12;
    CHECK(decode(bytes(file), decoding).rgb[0] == 255 &&
          decode(bytes(file), decoding).rgb[3] == 16);
    decoding.depth = std::pair(0, 4095);
    CHECK(decode(bytes(file), decoding).rgb[3] == 16);  // 255 * 256 / 4095 is 15.94
}

void transparency_is_laid_on_the_background() {
    const std::string file = grey_png(8, "\x01\x02", png_chunk("tRNS", "\0\x02"s));
    Decoding decoding;
    CHECK(decode(bytes(file), decoding).rgb[3] == 2);
    decoding.background = Colour{200, 100, 50};
    const Picture laid = decode(bytes(file), decoding);
    CHECK(laid.rgb == (std::vector<std::uint8_t>{1, 1, 1, 200, 100, 50}));
}

void what_is_no_picture_has_its_reason() {
    const auto why = [](const std::string& file) {
        return reason([&] { decode(bytes(file), Decoding{}); });
    };
    CHECK(why("") == "the file is empty (0 bytes)");
    CHECK(holds(why("<html>"), "a web page"));
    CHECK(holds(why("RIFFxxxxWEBP"), "WEBP is not read here"));
    CHECK(holds(why("GIF89a"), "GIF is not read here"));
    CHECK(holds(why("%PDF-1.7"), "a PDF"));
    CHECK(holds(why("words"), "allowed are JPEG and PNG"));
    CHECK(holds(why(make_png(100000, 100000, 8, 2, "")), "too many pixels: 100000x100000"));
    for (const std::string& file : make_pictures())
        CHECK(holds(why(file.substr(0, file.size() - 2)), "ends early"));
}

void orientations_are_found_where_pillow_finds_them() {
    const std::string big = "MM\0*\0\0\0\10\0\1\1\22\0\3\0\0\0\1\0\6\0\0\0\0\0\0"s;
    const std::string xmp = "<x tiff:Orientation=\"8\"/>", other = "<tiff:Orientation>3<";
    CHECK(orientation_of(&big, &xmp) == 6);
    CHECK(orientation_of(nullptr, &xmp) == 8 && orientation_of(nullptr, &other) == 3);
    CHECK(orientation_of(nullptr, nullptr) == 1);
    const std::string empty = "II*\0\10\0\0\0\0\0"s, broken = "no block";
    CHECK(orientation_of(&empty, &xmp) == 8 && orientation_of(&broken, &xmp) < 2);
    for (std::size_t size = 0; size < big.size(); ++size) {
        const std::string cut = big.substr(0, size);
        orientation_of(&cut, nullptr);
    }
}

void pictures_are_turned_upright() {
    Picture two(2, 1);
    two.rgb = {1, 1, 1, 2, 2, 2};
    const auto firsts = [&](int orientation) {
        const Picture made = upright(two, orientation);
        return std::pair(made.height, made.rgb[0]);
    };
    CHECK(firsts(1) == std::pair(1, std::uint8_t{1}) && firsts(2) == std::pair(1, std::uint8_t{2}));
    CHECK(firsts(3) == std::pair(1, std::uint8_t{2}) && firsts(4) == std::pair(1, std::uint8_t{1}));
    CHECK(firsts(5) == std::pair(2, std::uint8_t{1}) && firsts(6) == std::pair(2, std::uint8_t{1}));
    CHECK(firsts(7) == std::pair(2, std::uint8_t{2}) && firsts(8) == std::pair(2, std::uint8_t{2}));
}

void values_of_preprocess_json_are_checked() {
    const auto refused = [](const std::string& json) {
        return !reason([&] { Preprocess(json, "preprocess.json"); }).empty();
    };
    CHECK(!refused("{}"));
    for (const char* json : {"",
                             "[]",
                             "{",
                             R"({"crop": 0})",
                             R"({"crop": 5000})",
                             R"({"crop": [3]})",
                             R"({"crop": 224.5})",
                             R"({"crop": true})",
                             R"({"crop": 300})",
                             R"({"resize_short": 1})",
                             R"({"mean": [0, 0]})",
                             R"({"std": [0, 1, 1]})",
                             R"({"std": ["a", 1, 1]})",
                             R"({"fit": "stretch"})",
                             R"({"interpolation": "box"})",
                             R"({"background": [0, 0, 256]})",
                             R"({"depth": 7})",
                             R"({"depth": [9, 9]})",
                             R"({"max_pixels": 0})",
                             R"({"max_pixels": 18446744073709551615})",
                             R"({"new": 1})"})
        CHECK(refused(json));
}

void text_is_written_as_python_writes_it() {
    CHECK(repr(0.1) == "0.1" && repr(1.0) == "1.0" && repr(7e-05) == "7e-05");
    CHECK(repr(1e16) == "1e+16" && repr(123456.0) == "123456.0" && repr(1.5e-7) == "1.5e-07");
    CHECK(repr(0.0001) == "0.0001" && repr(-2.5) == "-2.5" && repr(0.0) == "0.0");
    CHECK(repr(std::numeric_limits<double>::denorm_min()) == "5e-324");
    CHECK(repr(std::string("it's")) == "\"it's\"" && repr(std::string("a'\"b")) == "'a\\'\"b'");
    CHECK(repr(std::string("B\xc3\xa4r\n")) == "'B\xc3\xa4r\\n'");
    CHECK(printable("a\x1b[31m\xe2\x80\xae") == "a\\x1b[31m\\u202e");
    CHECK(as_utf8("a\xff\xed\xa0\x80z") == "a\\xff\\xed\\xa0\\x80z");
    CHECK(json_text("\"\\\n\x7f\xf3\xa0\x80\x81") == "\"\\\"\\\\\\n\\u007f\\udb40\\udc01\"");
}

}  // namespace

int main() {
    pictures_of_every_kind_are_read();
    grey_of_16_bits_follows_the_depth();
    transparency_is_laid_on_the_background();
    what_is_no_picture_has_its_reason();
    orientations_are_found_where_pillow_finds_them();
    pictures_are_turned_upright();
    values_of_preprocess_json_are_checked();
    text_is_written_as_python_writes_it();
    std::printf("%d checks failed\n", failures);
    return failures == 0 ? 0 : 1;
}
