"""Reads the large name on top of the desktop image's screen, by text recognition."""
import io
import os
import subprocess

from PIL import Image


def read_name(picture):
    """The large name on top of a desktop, by text recognition."""
    # The letters are white on a coloured band, the height of which is fixed.
    band = picture.crop((0, 0, picture.width, 220)).convert("L").point(lambda v: 0 if v > 200 else 255)
    band = band.resize((band.width // 3, band.height // 3))
    framed = Image.new("L", (band.width + 80, band.height + 80), 255)
    framed.paste(band, (40, 40))
    png = io.BytesIO()
    framed.save(png, "PNG")
    done = subprocess.run(["tesseract", "stdin", "stdout", "--psm", "7", "-c",
                           "tessedit_char_whitelist=abcdefghijklmnopqrstuvwxyz0123456789-"],
                          input=png.getvalue(), capture_output=True, check=True,
                          env={**os.environ, "OMP_THREAD_LIMIT": "1"})
    return done.stdout.decode().strip().replace(" ", "")
