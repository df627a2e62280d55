/* coppice-show-window: a band across the top of the screen that shows one text in letters as large as fit.
 *
 * States:  waiting -> ready, once the window is on the screen and a window manager runs. Only then is SHOW_SOCKET
 *          bound, so its existence tells that the desktop is up.
 * Data:    the text; first the host name, then what coppice-show sends. The colour follows from the text.
 * Idle:    one poll() without a time limit; no timer, no wake-up.
 */
#include <X11/Xatom.h>
#include <X11/Xft/Xft.h>
#include <X11/Xlib.h>
#include <X11/Xutil.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "show.h"

#define BAND_HEIGHT 220
#define MARGIN 24
#define MAX_PIXELS 190

static char text[SHOW_TEXT_MAX_BYTES + 1];
static Display *display;
static Window window;
static XftDraw *draw;
static XftColor white;
static XftFont *font;
static int font_pixels, width, mapped;

static XftFont *open_font(int pixels)
{
	return XftFontOpen(display, DefaultScreen(display), XFT_FAMILY, XftTypeString, "DejaVu Sans", XFT_WEIGHT, XftTypeInteger,
			   XFT_WEIGHT_BOLD, XFT_PIXEL_SIZE, XftTypeDouble, (double)pixels, NULL);
}

/* Opens the font at the largest size at which the text fits. */
static void fit(XGlyphInfo *extents)
{
	int pixels = MAX_PIXELS;

	for (;;) {
		if (pixels != font_pixels) {
			if (font)
				XftFontClose(display, font);
			font = open_font(pixels);
			font_pixels = pixels;
		}
		if (!font)
			exit(1);
		XftTextExtentsUtf8(display, font, (const FcChar8 *)text, (int)strlen(text), extents);
		if (extents->width <= width - 2 * MARGIN || pixels <= 12)
			return;
		pixels = pixels * (width - 2 * MARGIN) / extents->width - 1;
		if (pixels < 12)
			pixels = 12;
	}
}

/* A dark, saturated colour chosen by FNV-1a over the text: neighbours on a contact sheet differ. */
static unsigned long background(void)
{
	static const unsigned char palette[][3] = {
		{ 0x1d, 0x4e, 0x89 }, { 0x8a, 0x1c, 0x4a }, { 0x1b, 0x6b, 0x4a }, { 0x6a, 0x3d, 0x9a }, { 0xa3, 0x4a, 0x00 },
		{ 0x0b, 0x6e, 0x7f }, { 0x7a, 0x22, 0x22 }, { 0x4a, 0x5d, 0x16 }, { 0x3b, 0x3b, 0x98 }, { 0x80, 0x55, 0x00 },
		{ 0x8c, 0x2f, 0x88 }, { 0x2e, 0x5e, 0x2e }, { 0x00, 0x5f, 0x9e }, { 0x94, 0x30, 0x2f }, { 0x4b, 0x4e, 0x6d },
		{ 0x5e, 0x35, 0x23 },
	};
	uint32_t hash = 2166136261u;
	const unsigned char *c;

	for (const char *p = text; *p; p++)
		hash = (hash ^ (unsigned char)*p) * 16777619u;
	c = palette[(hash ^ hash >> 16) % (sizeof(palette) / sizeof(palette[0]))];
	return (unsigned long)c[0] << 16 | (unsigned long)c[1] << 8 | c[2];
}

static void paint(void)
{
	XGlyphInfo extents;

	fit(&extents);
	XSetWindowBackground(display, window, background());
	XClearWindow(display, window);
	XftDrawStringUtf8(draw, &white, font, (width - extents.width) / 2 + extents.x, (BAND_HEIGHT - font->ascent - font->descent) / 2 + font->ascent,
			  (const FcChar8 *)text, (int)strlen(text));
}

/* A dock that keeps the top of the screen for itself on every workspace. */
static void make_window(void)
{
	long strut[12] = { 0, 0, BAND_HEIGHT, 0, 0, 0, 0, 0, 0, 0, 0, 0 };
	Atom type = XInternAtom(display, "_NET_WM_WINDOW_TYPE_DOCK", False);
	XSizeHints hints = { .flags = USPosition | USSize, .width = width, .height = BAND_HEIGHT };
	XWMHints wm_hints = { .flags = InputHint, .input = False };

	width = DisplayWidth(display, DefaultScreen(display));
	strut[9] = width - 1;
	hints.width = width;
	window = XCreateSimpleWindow(display, DefaultRootWindow(display), 0, 0, (unsigned int)width, BAND_HEIGHT, 0, 0, background());
	XStoreName(display, window, "coppice");
	XSetWMNormalHints(display, window, &hints);
	XSetWMHints(display, window, &wm_hints);
	XChangeProperty(display, window, XInternAtom(display, "_NET_WM_WINDOW_TYPE", False), XA_ATOM, 32, PropModeReplace, (unsigned char *)&type, 1);
	XChangeProperty(display, window, XInternAtom(display, "_NET_WM_STRUT_PARTIAL", False), XA_CARDINAL, 32, PropModeReplace, (unsigned char *)strut, 12);
	XSelectInput(display, window, ExposureMask | StructureNotifyMask);
	draw = XftDrawCreate(display, window, DefaultVisual(display, DefaultScreen(display)), DefaultColormap(display, DefaultScreen(display)));
	XftColorAllocName(display, DefaultVisual(display, DefaultScreen(display)), DefaultColormap(display, DefaultScreen(display)), "white", &white);
	XMapWindow(display, window);
}

static int wm_runs(Atom check)
{
	Atom type;
	int format;
	unsigned long count = 0, rest;
	unsigned char *data = NULL;

	XGetWindowProperty(display, DefaultRootWindow(display), check, 0, 1, False, XA_WINDOW, &type, &format, &count, &rest, &data);
	if (data)
		XFree(data);
	return count == 1;
}

static int listen_now(void)
{
	static const struct sockaddr_un address = { .sun_family = AF_UNIX, .sun_path = SHOW_SOCKET };
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

	unlink(SHOW_SOCKET);
	if (fd < 0 || bind(fd, (const struct sockaddr *)&address, sizeof(address)) < 0 || listen(fd, 8) < 0) {
		perror("coppice-show-window: " SHOW_SOCKET);
		exit(1);
	}
	return fd;
}

static void take_text(int listener)
{
	char new_text[sizeof(text)];
	int fd = accept(listener, NULL, NULL);
	ssize_t n;

	if (fd < 0)
		return;
	n = recv(fd, new_text, sizeof(new_text) - 1, 0);
	if (n > 0) {
		memcpy(text, new_text, (size_t)n);
		text[n] = 0;
		paint();
		XSync(display, False);
		(void)send(fd, "", 1, MSG_NOSIGNAL); /* the sender may be gone: its loss */
	}
	close(fd);
}

int main(void)
{
	struct pollfd fds[2] = { { .events = POLLIN }, { .fd = -1, .events = POLLIN } };
	Atom check;

	display = XOpenDisplay(NULL);
	if (!display) {
		fputs("coppice-show-window: cannot open the display\n", stderr);
		return 1;
	}
	if (gethostname(text, sizeof(text) - 1) < 0 || !text[0])
		strcpy(text, "desktop");
	check = XInternAtom(display, "_NET_SUPPORTING_WM_CHECK", False);
	XSelectInput(display, DefaultRootWindow(display), PropertyChangeMask);
	make_window();
	fds[0].fd = ConnectionNumber(display);
	for (;;) {
		while (XPending(display)) {
			XEvent event;

			XNextEvent(display, &event);
			if (event.type == Expose && event.xexpose.count == 0) {
				paint();
				mapped = 1;
			}
		}
		if (fds[1].fd < 0 && mapped && wm_runs(check)) {
			XSync(display, False);
			fds[1].fd = listen_now();
			continue;
		}
		if (poll(fds, 2, -1) > 0 && fds[1].fd >= 0 && fds[1].revents)
			take_text(fds[1].fd);
		if (fds[0].revents & (POLLHUP | POLLERR))
			return 0;
	}
}
