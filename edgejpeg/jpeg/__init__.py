"""The standard (ITU-T T.81, JFIF) on plain NumPy arrays: readable and exact; speed is the library's work."""

from edgejpeg.jpeg.colour import RGB_TO_YCBCR as RGB_TO_YCBCR
from edgejpeg.jpeg.colour import SUBSAMPLINGS as SUBSAMPLINGS
from edgejpeg.jpeg.colour import YCBCR_TO_RGB as YCBCR_TO_RGB
from edgejpeg.jpeg.colour import rgb_to_ycbcr as rgb_to_ycbcr
from edgejpeg.jpeg.colour import sample_planes as sample_planes
from edgejpeg.jpeg.colour import ycbcr_to_rgb as ycbcr_to_rgb
from edgejpeg.jpeg.dct import DCT_MATRIX as DCT_MATRIX
from edgejpeg.jpeg.dct import block_dct as block_dct
from edgejpeg.jpeg.dct import inverse_block_dct as inverse_block_dct
from edgejpeg.jpeg.huffman import HuffmanTable as HuffmanTable
from edgejpeg.jpeg.huffman import optimal_table as optimal_table
from edgejpeg.jpeg.markers import JpegInfo as JpegInfo
from edgejpeg.jpeg.markers import parse_jpeg as parse_jpeg
from edgejpeg.jpeg.reference import encode_reference as encode_reference
from edgejpeg.jpeg.reference import quantize as quantize
from edgejpeg.jpeg.tables import IJG_CHROMA as IJG_CHROMA
from edgejpeg.jpeg.tables import IJG_LUMA as IJG_LUMA
from edgejpeg.jpeg.tables import QuantTable as QuantTable
from edgejpeg.jpeg.tables import ijg_tables as ijg_tables
from edgejpeg.jpeg.zigzag import ZIGZAG as ZIGZAG
from edgejpeg.jpeg.zigzag import from_zigzag as from_zigzag
from edgejpeg.jpeg.zigzag import to_zigzag as to_zigzag
