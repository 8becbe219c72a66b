"""Files of images and the bytes in them.

image_files: images and other files of a folder. listing: images named by files, folders, patterns or lists.
image_source: bytes of an image in a folder. archive_index, archive_source: bytes of an image in an archive.
"""
