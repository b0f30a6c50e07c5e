#pragma once

#include <cstdint>
#include <string>
#include <vector>

/// Small pictures of every kind that is read, as the bytes of files, made here.
std::vector<std::string> make_pictures();

/// A PNG file of ``width`` x ``height`` whose raw rows, each after its filter byte, are ``rows``;
/// ``extra`` are whole chunks before the pixels.
std::string make_png(std::uint32_t width, std::uint32_t height, int depth, int colour,
                     const std::string& rows, const std::string& extra = "");

std::string png_chunk(const std::string& name, const std::string& body);

/// The lengths and checksums of all chunks made right again, as far as they follow each other.
void repair_png(std::string* file);
