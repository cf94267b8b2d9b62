"""CHAIR: objects that captions name and images do not have; the names of COCO's objects."""
