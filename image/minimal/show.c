/* show TEXT: clear the first text console and put TEXT on it in letters as large as fit.
 *
 * The glyphs are the console's own font (KDFONTOP, 8 x 16 or what it is); each dot of a glyph becomes a block of
 * cells, two dots above each other one cell by CP437's half blocks. The cells are written to /dev/vcsa1 at once.
 */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

/* From the kernel's linux/kd.h, which musl does not bring. */
#define KDFONTOP 0x4b72
#define KD_FONT_OP_GET 1
struct console_font_op {
	unsigned int op, flags, width, height, charcount;
	unsigned char *data;
};

#define MAX_COLS 256
#define MAX_ROWS 128
#define GLYPH_ROWS 32 /* the kernel pads every glyph to 32 rows */
#define COLOUR 0x1f   /* white on blue */

static uint8_t font[512 * GLYPH_ROWS];

static int dot(char c, int x, int y, int height)
{
	if (x < 0 || x >= 8 || y < 0 || y >= height)
		return 0;
	return font[(uint8_t)c * GLYPH_ROWS + y] >> (7 - x) & 1;
}

int main(int argc, char **argv)
{
	static const uint8_t blocks[4] = { ' ', 0xdf, 0xdc, 0xdb }; /* none, upper, lower, both */
	static uint8_t screen[4 + MAX_ROWS * MAX_COLS * 2];
	struct console_font_op op = { .op = KD_FONT_OP_GET, .width = 8, .height = GLYPH_ROWS, .charcount = 512, .data = font };
	int tty = open("/dev/tty1", O_RDWR | O_NOCTTY), vcs = open("/dev/vcsa1", O_RDWR);
	int rows, cols, len, scale, left, top;

	if (argc != 2 || !argv[1][0]) {
		fputs("usage: show TEXT\n", stderr);
		return 2;
	}
	if (tty < 0 || vcs < 0 || read(vcs, screen, 4) != 4 || ioctl(tty, KDFONTOP, &op) < 0) {
		perror("show: no text console (start the VM with a VGA device)");
		return 1;
	}
	rows = screen[0] < MAX_ROWS ? screen[0] : MAX_ROWS;
	cols = screen[1];
	len = (int)strlen(argv[1]);
	if (len > cols / 8)
		len = cols / 8;
	scale = cols / (8 * len);
	if (scale * (int)op.height > rows * 2)
		scale = rows * 2 / (int)op.height;
	if (scale < 1)
		scale = 1;
	left = (cols - len * 8 * scale) / 2;
	top = (rows - (int)op.height * scale / 2) / 2;
	for (int y = 0; y < rows; y++)
		for (int x = 0; x < cols; x++) {
			uint8_t *cell = screen + 4 + (y * cols + x) * 2;
			int dx = x - left, dy = (y - top) * 2, bits = 0;

			if (dx >= 0 && dx < len * 8 * scale && dy >= 0) {
				char c = argv[1][dx / (8 * scale)];

				bits = dot(c, dx / scale % 8, dy / scale, (int)op.height) |
				       dot(c, dx / scale % 8, (dy + 1) / scale, (int)op.height) << 1;
			}
			cell[0] = blocks[bits];
			cell[1] = COLOUR;
		}
	if (pwrite(vcs, screen + 4, (size_t)(rows * cols * 2), 4) < 0) {
		perror("show: write /dev/vcsa1");
		return 1;
	}
	return 0;
}
