#include "text.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <cstdio>

namespace hgnetv2 {
namespace {

struct Sign {
    char32_t code;
    std::size_t size;  // bytes; 0: these are no UTF-8
};

Sign sign_at(std::string_view text, std::size_t place) {
    const auto byte = [&](std::size_t i) -> unsigned {
        return place + i < text.size() ? static_cast<unsigned char>(text[place + i]) : 0;
    };
    const unsigned first = byte(0);
    if (first < 0x80) return {first, 1};
    const std::size_t size = first >= 0xf0 && first < 0xf8 ? 4 : first >= 0xe0 ? 3 : 2;
    if (first < 0xc2 || first >= 0xf5) return {0, 0};
    char32_t code = first & (0x7f >> size);
    for (std::size_t i = 1; i < size; ++i) {
        if ((byte(i) & 0xc0) != 0x80) return {0, 0};
        code = code << 6 | (byte(i) & 0x3f);
    }
    constexpr std::array<char32_t, 5> least = {0, 0, 0x80, 0x800, 0x10000};
    if (code < least[size] || code > 0x10ffff || (code >= 0xd800 && code < 0xe000)) return {0, 0};
    return {code, size};
}

struct Range {
    char32_t first, last;
};

// Unicode's categories Cc, Cf, Cs, Co, Zl, Zp and Zs without the space, and what is never assigned.
// A sign that Unicode has not assigned yet is not here: which those are depends on its version.
constexpr Range not_printable[] = {
    {0x0, 0x1f},         {0x7f, 0xa0},       {0xad, 0xad},       {0x600, 0x605},
    {0x61c, 0x61c},      {0x6dd, 0x6dd},     {0x70f, 0x70f},     {0x890, 0x891},
    {0x8e2, 0x8e2},      {0x1680, 0x1680},   {0x180e, 0x180e},   {0x2000, 0x200f},
    {0x2028, 0x202f},    {0x205f, 0x206f},   {0x3000, 0x3000},   {0xd800, 0xf8ff},
    {0xfdd0, 0xfdef},    {0xfeff, 0xfeff},   {0xfff0, 0xfffb},   {0xfffe, 0xffff},
    {0x110bd, 0x110bd},  {0x110cd, 0x110cd}, {0x13430, 0x1343f}, {0x1bca0, 0x1bca3},
    {0x1d173, 0x1d17a},  {0x1fffe, 0x1ffff}, {0x2fffe, 0x2ffff}, {0x3fffe, 0xe00ff},
    {0xe01f0, 0x10ffff},
};

bool printable_sign(char32_t code) {
    return std::none_of(std::begin(not_printable), std::end(not_printable),
                        [code](Range range) { return range.first <= code && code <= range.last; });
}

std::string hex(const char* form, unsigned value) {
    std::array<char, 16> text{};
    std::snprintf(text.data(), text.size(), form, value);
    return text.data();
}

std::string escaped(char32_t code) {
    if (code == '\n') return "\\n";
    if (code == '\r') return "\\r";
    if (code == '\t') return "\\t";
    return hex(code < 0x100 ? "\\x%02x" : code < 0x10000 ? "\\u%04x" : "\\U%08x", code);
}

/// Every sign of a text, given to ``write`` with its bytes.
template <typename Write> void each_sign(std::string_view text, Write write) {
    for (std::size_t place = 0; place < text.size();) {
        const Sign sign = sign_at(text, place);
        const std::size_t size = std::max<std::size_t>(sign.size, 1);
        write(sign, text.substr(place, size));
        place += size;
    }
}

}  // namespace

std::string as_utf8(std::string_view bytes) {
    std::string made;
    each_sign(bytes, [&](Sign sign, std::string_view own) {
        if (sign.size == 0)
            made += hex("\\x%02x", static_cast<unsigned char>(own[0]));
        else
            made += own;
    });
    return made;
}

bool is_utf8(std::string_view text) {
    bool good = true;
    each_sign(text, [&](Sign sign, std::string_view) { good = good && sign.size != 0; });
    return good;
}

bool is_printable(std::string_view text) {
    bool good = true;
    each_sign(text, [&](Sign sign, std::string_view) {
        good = good && sign.size != 0 && printable_sign(sign.code);
    });
    return good;
}

std::string printable(std::string_view text) {
    const std::string whole = as_utf8(text);
    std::string made;
    each_sign(whole, [&](Sign sign, std::string_view own) {
        made += printable_sign(sign.code) ? std::string(own) : escaped(sign.code);
    });
    return made;
}

std::string repr(std::string_view text) {
    const std::string whole = as_utf8(text);
    const bool single = whole.find('\'') != whole.npos && whole.find('"') == whole.npos;
    const char quote = single ? '"' : '\'';
    std::string made(1, quote);
    each_sign(whole, [&](Sign sign, std::string_view own) {
        if (sign.code == static_cast<unsigned char>(quote) || sign.code == '\\') made += '\\';
        made += printable_sign(sign.code) ? std::string(own) : escaped(sign.code);
    });
    return made + quote;
}

std::string json_text(std::string_view text) {
    const std::string whole = as_utf8(text);
    std::string made = "\"";
    each_sign(whole, [&](Sign sign, std::string_view own) {
        if (sign.code == '"' || sign.code == '\\') {
            made += std::string("\\") + static_cast<char>(sign.code);
        } else if (printable_sign(sign.code)) {
            made += own;
        } else if (sign.code == '\b') {
            made += "\\b";
        } else if (sign.code == '\f') {
            made += "\\f";
        } else if (sign.code < 0x20 && escaped(sign.code)[1] != 'x') {
            made += escaped(sign.code);
        } else if (sign.code >= 0x10000) {
            const char32_t above = sign.code - 0x10000;
            made +=
                hex("\\u%04x", 0xd800 + (above >> 10)) + hex("\\u%04x", 0xdc00 + (above & 0x3ff));
        } else {
            made += hex("\\u%04x", sign.code);
        }
    });
    return made + '"';
}

std::string repr(double value) {
    if (!std::isfinite(value)) return std::isnan(value) ? "nan" : value < 0 ? "-inf" : "inf";
    // The shortest digits that give the number back; where the point goes is Python's rule.
    std::array<char, 40> text{};
    const auto end =
        std::to_chars(text.data(), text.data() + text.size(), value, std::chars_format::scientific)
            .ptr;
    const std::string whole(text.data(), end);
    const std::string sign = whole[0] == '-' ? "-" : "";
    const auto e = whole.find('e');
    const int exponent = std::stoi(whole.substr(e + 1));
    std::string digits = whole.substr(sign.size(), e - sign.size());
    digits.erase(std::remove(digits.begin(), digits.end(), '.'), digits.end());
    const int count = static_cast<int>(digits.size());
    if (exponent < -4 || exponent >= 16) {
        if (count > 1) digits.insert(1, ".");
        const std::string power = std::to_string(std::abs(exponent));
        return sign + digits + (exponent < 0 ? "e-" : "e+") + (power.size() < 2 ? "0" : "") + power;
    }
    if (exponent < 0) return sign + "0." + std::string(-exponent - 1, '0') + digits;
    if (count <= exponent + 1) return sign + digits + std::string(exponent + 1 - count, '0') + ".0";
    return sign + digits.insert(exponent + 1, ".");
}

}  // namespace hgnetv2
