#include "pictures.h"

#include <cstdio>
#include <algorithm>
#include <cstdlib>

#include <jpeglib.h>
#include <zlib.h>

using namespace std::string_literals;

namespace {

std::string number(std::uint32_t value) {
    std::string bytes;
    for (int shift = 24; shift >= 0; shift -= 8) bytes += static_cast<char>(value >> shift & 0xff);
    return bytes;
}

std::uint8_t level(int x, int y, int channel) {
    return static_cast<std::uint8_t>(x * 9 + y * (5 + channel) + channel * 80);
}

std::string make_jpeg(int components, bool progressive, int sampling, bool held_sideways) {
    constexpr int width = 37, height = 29;
    jpeg_compress_struct jpeg{};
    jpeg_error_mgr errors;
    jpeg.err = jpeg_std_error(&errors);
    jpeg_create_compress(&jpeg);
    unsigned char* made = nullptr;
    unsigned long size = 0;
    jpeg_mem_dest(&jpeg, &made, &size);
    jpeg.image_width = width, jpeg.image_height = height, jpeg.input_components = components;
    jpeg.in_color_space = components == 1 ? JCS_GRAYSCALE : components == 3 ? JCS_RGB : JCS_CMYK;
    jpeg_set_defaults(&jpeg);
    jpeg.comp_info[0].h_samp_factor = sampling;
    jpeg.restart_interval = progressive ? 0 : 2;
    if (progressive) jpeg_simple_progression(&jpeg);
    jpeg_start_compress(&jpeg, TRUE);
    if (held_sideways) {
        const std::string exif = "Exif\0\0MM\0*\0\0\0\10\0\1\1\22\0\3\0\0\0\1\0\6\0\0\0\0\0\0"s;
        jpeg_write_marker(&jpeg, JPEG_APP0 + 1, reinterpret_cast<const JOCTET*>(exif.data()),
                          static_cast<unsigned>(exif.size()));
    }
    std::vector<JSAMPLE> row(static_cast<std::size_t>(width) * components);
    for (int y = 0; y < height; ++y) {
        for (std::size_t i = 0; i < row.size(); ++i)
            row[i] = level(static_cast<int>(i) / components, y, static_cast<int>(i) % components);
        JSAMPROW pointer = row.data();
        jpeg_write_scanlines(&jpeg, &pointer, 1);
    }
    jpeg_finish_compress(&jpeg);
    std::string file(reinterpret_cast<char*>(made), size);
    jpeg_destroy_compress(&jpeg);
    std::free(made);
    return file;
}

}  // namespace

std::string png_chunk(const std::string& name, const std::string& body) {
    const std::string whole = name + body;
    const auto sum =
        crc32(0, reinterpret_cast<const Bytef*>(whole.data()), static_cast<uInt>(whole.size()));
    return number(static_cast<std::uint32_t>(body.size())) + whole +
           number(static_cast<std::uint32_t>(sum));
}

std::string make_png(std::uint32_t width, std::uint32_t height, int depth, int colour,
                     const std::string& rows, const std::string& extra) {
    std::string packed(compressBound(rows.size()), '\0');
    uLongf size = packed.size();
    compress(reinterpret_cast<Bytef*>(packed.data()), &size,
             reinterpret_cast<const Bytef*>(rows.data()), rows.size());
    packed.resize(size);
    const std::string kind = {static_cast<char>(depth), static_cast<char>(colour), 0, 0, 0};
    return "\x89PNG\r\n\x1a\n" + png_chunk("IHDR", number(width) + number(height) + kind) + extra +
           png_chunk("IDAT", packed) + png_chunk("IEND", "");
}

void repair_png(std::string* file) {
    for (std::size_t place = 8; place + 12 <= file->size();) {
        std::size_t length = 0;
        for (int i = 0; i < 4; ++i)
            length = length << 8 | static_cast<std::uint8_t>((*file)[place + i]);
        if (length > file->size() - place - 12) return;
        const std::string whole = file->substr(place + 4, 4 + length);
        file->replace(place, 12 + length, png_chunk(whole.substr(0, 4), whole.substr(4)));
        place += 12 + length;
    }
}

std::vector<std::string> make_pictures() {
    std::vector<std::string> files;
    for (const int components : {1, 3, 4})
        for (const bool progressive : {false, true})
            for (const int sampling : {1, 2})
                files.push_back(make_jpeg(components, progressive, sampling, sampling == 2));
    constexpr int width = 19, height = 13;
    const int kinds[][3] = {{1, 0, 1}, {2, 0, 1},  {4, 0, 1}, {8, 0, 1}, {16, 0, 1},
                            {8, 2, 3}, {16, 2, 3}, {1, 3, 1}, {4, 3, 1}, {8, 3, 1},
                            {8, 4, 2}, {16, 4, 2}, {8, 6, 4}, {16, 6, 4}};
    for (const auto& [depth, colour, channels] : kinds) {
        std::string rows;
        for (int y = 0; y < height; ++y) {
            rows += static_cast<char>(y % 5);  // every filter
            const int bytes = (width * channels * depth + 7) / 8;
            for (int x = 0; x < bytes; ++x) rows += static_cast<char>(level(x, y, 1));
        }
        std::string extra;
        if (colour == 3) {
            std::string palette;
            for (int i = 0; i < std::min(1 << depth, 12); ++i)
                palette += {char(i * 20), char(i), 7};
            extra = png_chunk("PLTE", palette) + png_chunk("tRNS", "\0\x40"s);
        } else if (colour == 0 || colour == 2) {
            extra = png_chunk("tRNS", "\0\1\0\2\0\3"s.substr(0, colour == 0 ? 2 : 6));
        }
        extra += png_chunk("eXIf", "II*\0\10\0\0\0\1\0\22\1\3\0\1\0\0\0\5\0\0\0"s);
        extra += png_chunk("iTXt", "XML:com.adobe.xmp\0\0\0\0\0<x tiff:Orientation=\"3\"/>"s);
        files.push_back(make_png(width, height, depth, colour, rows, extra));
    }
    return files;
}
