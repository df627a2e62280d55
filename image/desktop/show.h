/* What coppice-show and coppice-show-window say to each other: the text, then one byte back once it is drawn. */
#pragma once

#define SHOW_SOCKET "/run/coppice-show/socket"
#define SHOW_TEXT_MAX_BYTES 255
